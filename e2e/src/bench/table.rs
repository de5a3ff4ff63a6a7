//! The table of what was measured.

use std::fmt;

/// One measured thing a line.
#[derive(Debug, Default)]
pub struct Table(Vec<Row>);

#[derive(Debug)]
struct Row {
    what: String,
    measured: String,
    target: String,
}

impl Table {
    /// Adds a line, and prints it at once: the whole takes a while.
    pub fn row(&mut self, what: &str, measured: impl Into<String>, target: &str) {
        let row = Row {
            what: what.to_owned(),
            measured: measured.into(),
            target: target.to_owned(),
        };
        println!("bench:   {}: {}", row.what, row.measured);
        self.0.push(row);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "| Measure | Measured | To reach |\n|---|---|---|"
        )?;
        for Row {
            what,
            measured,
            target,
        } in &self.0
        {
            writeln!(formatter, "| {what} | {measured} | {target} |")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_table_of_markdown() {
        let mut table = Table::default();
        table.row("a", "1", "≤ 2");
        assert_eq!(
            table.to_string(),
            "| Measure | Measured | To reach |\n|---|---|---|\n| a | 1 | ≤ 2 |\n"
        );
    }
}
