//! Actions as Parquet, a column each.

use super::Table;
use crate::report::output::{WRITTEN_BY, write_with};
use anyhow::{Context, Result};
use parquet::basic::{Compression, Repetition, Type as PhysicalType};
use parquet::data_type::{FloatType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{Type, TypePtr};
use std::io::{Error, Write};
use std::path::Path;
use std::sync::Arc;

/// Writes the table: `episode`, `step` and `inference` INT64, then `predicted.GROUP.JOINT` and `recorded.GROUP.JOINT`
/// FLOAT.
///
/// # Errors
/// The file cannot be written.
pub fn write(table: &Table, path: &Path) -> Result<()> {
    let schema = schema(table).context("a schema of the actions")?;
    write_with(path, |file| fill(table, schema, file).map_err(Error::other))
}

fn schema(table: &Table) -> Result<TypePtr, ParquetError> {
    let field = |name: &str, kind| {
        let field = Type::primitive_type_builder(name, kind).with_repetition(Repetition::REQUIRED);
        Ok::<_, ParquetError>(Arc::new(field.build()?))
    };
    let mut fields = Vec::new();
    for name in ["episode", "step", "inference"] {
        fields.push(field(name, PhysicalType::INT64)?);
    }
    for (name, _) in table.columns() {
        fields.push(field(&name, PhysicalType::FLOAT)?);
    }
    Ok(Arc::new(Type::group_type_builder("actions").with_fields(fields).build()?))
}

fn fill(table: &Table, schema: TypePtr, file: &mut (impl Write + Send)) -> Result<(), ParquetError> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_created_by(format!("created by {WRITTEN_BY}"))
        .build();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties))?;
    let mut rows = writer.next_row_group()?;
    for values in [&table.episode, &table.step, &table.inference] {
        let mut column = expect(rows.next_column()?)?;
        column.typed::<Int64Type>().write_batch(values, None, None)?;
        column.close()?;
    }
    for (_, values) in table.columns() {
        let mut column = expect(rows.next_column()?)?;
        column.typed::<FloatType>().write_batch(&values, None, None)?;
        column.close()?;
    }
    rows.close()?;
    writer.close()?;
    Ok(())
}

fn expect<T>(column: Option<T>) -> Result<T, ParquetError> {
    column.ok_or_else(|| ParquetError::General("fewer columns than the schema has".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::eval::actions::tests::table;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::RowAccessor;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("actions.parquet");
        write(&table(), &path).unwrap();
        let reader = SerializedFileReader::new(std::fs::File::open(&path).unwrap()).unwrap();
        let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
        let names: Vec<&String> = rows[0].get_column_iter().map(|(name, _)| name).collect();
        assert_eq!(names[..4], ["episode", "step", "inference", "predicted.arm.a"]);
        assert_eq!((rows.len(), rows[2].get_long(0).unwrap()), (3, 7));
        assert_eq!([3, 4, 5, 6].map(|i| rows[1].get_float(i).unwrap()), [1e-20, 4.0, 3.0, 4.0]);
        // It is known as ours when it is to be replaced.
        crate::report::output::claim(&path).unwrap();
    }
}
