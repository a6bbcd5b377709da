//! Plain text tables with aligned columns.

/// Rows under a header. Columns whose cells are all numbers are aligned to the right.
#[derive(Debug)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these column names.
    pub fn new(header: &[&str]) -> Self {
        Table { header: header.iter().map(|name| (*name).to_owned()).collect(), rows: Vec::new() }
    }

    /// Adds a row; missing cells stay empty.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut row: Vec<String> = cells.into_iter().collect();
        row.resize(self.header.len(), String::new());
        self.rows.push(row);
    }

    /// The table without the columns that say `nothing` in every row.
    pub fn without(mut self, nothing: &str) -> Self {
        for column in (0..self.header.len()).rev() {
            if self.rows.iter().all(|row| row[column] == nothing) {
                self.header.remove(column);
                self.rows.iter_mut().for_each(|row| drop(row.remove(column)));
            }
        }
        self
    }
}

/// The narrowest that a column of text becomes where a table does not fit its terminal.
const LEAST_WIDTH: usize = 12;
/// Characters of a line where nobody says.
const COLUMNS: usize = 80;
/// Between two columns.
const GAP: usize = 2;

impl std::fmt::Display for Table {
    /// As wide as the terminal where it is printed to one, else as `COLUMNS` says or 80 characters.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let terminal = console::Term::stdout().size_checked().map(|(_, columns)| usize::from(columns));
        let asked = || std::env::var("COLUMNS").ok()?.parse().ok();
        formatter.write_str(&self.within(terminal.or_else(asked).unwrap_or(COLUMNS)))
    }
}

impl Table {
    /// The table in at most `limit` characters a line, as far as wrapped text can make it fit.
    fn within(&self, limit: usize) -> String {
        let columns = 0..self.header.len();
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.chain([self.header[column].chars().count()]).max().unwrap_or(0)
        };
        let mut widths: Vec<usize> = columns.clone().map(width).collect();
        let numeric: Vec<bool> =
            columns.clone().map(|column| self.rows.iter().all(|row| is_number(&row[column]))).collect();
        loop {
            let all = widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1);
            let widest =
                columns.clone().filter(|column| !numeric[*column]).max_by_key(|column| widths[*column]);
            let Some(widest) = widest.filter(|widest| all > limit && widths[*widest] > LEAST_WIDTH) else {
                break;
            };
            widths[widest] = widths[widest].saturating_sub(all - limit).max(LEAST_WIDTH);
        }
        let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
        let mut text = String::new();
        for row in [&self.header, &rule].into_iter().chain(&self.rows) {
            let cells: Vec<Vec<String>> =
                row.iter().zip(&widths).map(|(cell, width)| wrapped(cell, *width)).collect();
            for line in 0..cells.iter().map(Vec::len).max().unwrap_or(1) {
                let cells = cells.iter().zip(&widths).zip(&numeric).map(|((cell, width), numeric)| {
                    let part = cell.get(line).map_or("", String::as_str);
                    if *numeric { format!("{part:>width$}") } else { format!("{part:<width$}") }
                });
                text += cells.collect::<Vec<_>>().join(&" ".repeat(GAP)).trim_end();
                text.push('\n');
            }
        }
        text
    }
}

/// A cell in lines of this width, cut after spaces and the marks that paths and lists have.
fn wrapped(cell: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest: Vec<char> = cell.chars().collect();
    while rest.len() > width && width > 0 {
        let place = rest[..width].iter().rposition(|letter| " ./,_-:".contains(*letter));
        let line: String = rest.drain(..place.map_or(width, |place| place + 1)).collect();
        lines.push(line.trim_end().to_owned());
    }
    lines.push(rest.into_iter().collect());
    lines
}

/// `1234567` as `1,234,567`.
pub fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn is_number(cell: &str) -> bool {
    cell.is_empty() || cell == "-" || cell.replace([',', '%', 'x'], "").parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["name", "size"]);
        table.row(["a".to_owned(), "5".to_owned()]);
        table.row(["longer".to_owned(), "1,234".to_owned()]);
        assert_eq!(table.to_string(), "name     size\n------  -----\na           5\nlonger  1,234\n");
    }

    #[test]
    fn columns_that_say_nothing_are_left_out() {
        let mut table = Table::new(&["site", "scale", "format"]);
        table.row(["a", "-", "-"].map(str::to_owned));
        table.row(["b", "-", "bf16"].map(str::to_owned));
        assert_eq!(table.without("-").within(80), "site  format\n----  ------\na     -\nb     bf16\n");
    }

    #[test]
    fn text_is_wrapped_where_a_table_is_too_wide() {
        let mut table = Table::new(&["place", "size", "note"]);
        table.row(["dit.block.0.attention.query".to_owned(), "5".to_owned(), "fits".to_owned()]);
        let text = table.within(30);
        assert!(text.lines().all(|line| line.chars().count() <= 30), "{text}");
        assert!(text.contains("dit.block.0.") && text.contains("attention."), "{text}");
        assert_eq!(table.within(200).lines().count(), 3);
        assert_eq!(wrapped("abcdef", 4), ["abcd", "ef"]);
        assert_eq!(wrapped("", 4), [""]);
    }

    #[test]
    fn digits_are_grouped_from_the_right() {
        let text: Vec<_> = [0, 999, 1000, 1_234_567].map(thousands).into();
        assert_eq!(text, ["0", "999", "1,000", "1,234,567"]);
    }
}
