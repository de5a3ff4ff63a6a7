//! Another party's changes to a template that a newer operator wrote, of which this one knows only
//! a part.

use super::overlay::{DEPTH, EntryKey, Places, list_keys, merge_into};
use crate::kubernetes::contains::contains;
use serde_json::{Map, Value};

/// What two templates have in common: of objects the fields, of lists whose entries have keys the
/// entries; other lists as a whole.
pub(super) fn common(one: &Value, other: &Value) -> Value {
    common_at(one, other, "").unwrap_or_default()
}

fn common_at(one: &Value, other: &Value, field: &str) -> Option<Value> {
    if one == other {
        return Some(one.clone());
    }
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let both = one.iter().filter_map(|(key, value)| {
                Some((key.clone(), common_at(value, other.get(key)?, key)?))
            });
            let both: Map<_, _> = both.collect();
            (!both.is_empty()).then_some(Value::Object(both))
        }
        (Value::Array(one), Value::Array(other)) if !list_keys(field).is_empty() => {
            let places = Places::of(other, list_keys(field));
            let both = one
                .iter()
                .filter_map(|entry| common_at(entry, other.get(places.find(entry)?)?, ""));
            let both: Vec<_> = both.collect();
            (!both.is_empty()).then_some(Value::Array(both))
        }
        _ => None,
    }
}

/// The live template with what is known of it as it should be, and all else as it stands.
pub(super) fn undone(live: &Value, known: &Value) -> Result<Value, String> {
    let mut value = live.clone();
    if !contains(live, known) {
        merge_into(&mut value, known, "", EntryKey::Whole, DEPTH)?;
    }
    Ok(value)
}
