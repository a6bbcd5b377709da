//! Actions as CSV. Floats have as many digits as it takes to read them back to the bit.

use super::Table;
use crate::report::output::write_with;
use anyhow::Result;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Writes the table.
///
/// # Errors
/// The file cannot be written.
pub fn write(table: &Table, path: &Path) -> Result<()> {
    write_with(path, |file| {
        let mut out = BufWriter::new(file);
        fill(table, &mut out)?;
        out.flush()
    })
}

fn fill(table: &Table, out: &mut impl Write) -> std::io::Result<()> {
    write!(out, "episode,step,inference")?;
    for (name, _) in table.columns() {
        write!(out, ",{}", quoted(&name))?;
    }
    writeln!(out)?;
    let joints = table.joints.len();
    for row in 0..table.episode.len() {
        write!(out, "{},{},{}", table.episode[row], table.step[row], table.inference[row])?;
        for values in [&table.predicted, &table.recorded] {
            for value in &values[row * joints..(row + 1) * joints] {
                // The shortest decimal that is this f32 and no other.
                write!(out, ",{value:?}")?;
            }
        }
        writeln!(out)?;
    }
    Ok(())
}

/// A cell as RFC 4180 has it.
fn quoted(cell: &str) -> String {
    match cell.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::eval::actions::tests::table;

    #[test]
    fn a_row_for_each_step() {
        let mut bytes = Vec::new();
        fill(&table(), &mut bytes).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let expected = "episode,step,inference,predicted.arm.a,\"predicted.arm.b, \"\"c\"\"\",recorded.arm.a,\
                        \"recorded.arm.b, \"\"c\"\"\"\n\
                        3,0,0,0.1,-2.0,1.0,2.0\n\
                        3,1,0,1e-20,4.0,3.0,4.0\n\
                        7,0,0,5.0,6.0,5.0,0.33333334\n";
        assert_eq!(text, expected);
    }
}
