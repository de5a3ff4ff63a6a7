//! A connection string divided into names and values, before anything is known about their meaning.

use super::error::{ParameterLabel, PgUrlError};
use super::parameters;

/// Names and values in the order of the text. Holds secrets: it has no `Debug`, and nothing of it
/// goes into an error.
#[derive(Default)]
pub(super) struct Raw {
    entries: Vec<Entry>,
}

pub(super) struct Entry {
    pub(super) name: String,
    pub(super) value: String,
    /// Counted from 1 among the parameters; 0 for a part of the text that is no parameter.
    pub(super) position: usize,
}

impl Raw {
    /// Adds an entry, under the driver's own name for it.
    pub(super) fn add(
        &mut self,
        name: &str,
        value: String,
        position: usize,
    ) -> Result<(), PgUrlError> {
        let name = if name == "dbname" { "database" } else { name };
        if name.is_empty() {
            return Err(PgUrlError::EmptyName { position });
        }
        // The server compares names without regard to case, and the driver hands them over in
        // random order.
        if self
            .entries
            .iter()
            .any(|entry| entry.name.eq_ignore_ascii_case(name))
        {
            return Err(PgUrlError::GivenTwice(label(name, position)));
        }
        self.entries.push(Entry {
            name: name.to_owned(),
            value,
            position,
        });
        Ok(())
    }

    /// Whether any name or value contains the character.
    pub(super) fn contains(&self, c: char) -> bool {
        self.entries
            .iter()
            .any(|entry| entry.name.contains(c) || entry.value.contains(c))
    }

    /// Takes an entry out.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        let index = self.entries.iter().position(|entry| entry.name == name)?;
        Some(self.entries.remove(index).value)
    }

    /// Takes an entry out, unless it is empty, which is the same as absent.
    pub(super) fn take_filled(&mut self, name: &str) -> Option<String> {
        self.take(name).filter(|value| !value.is_empty())
    }

    /// What has not been taken.
    pub(super) fn into_rest(self) -> Vec<Entry> {
        self.entries
    }
}

pub(super) fn label(name: &str, position: usize) -> ParameterLabel {
    ParameterLabel {
        position,
        name: parameters::known_name(name),
        similar: parameters::similar_name(name),
    }
}
