//! A run's metadata: one JSON object, and the operations that change it.
//!
//! The document is kept as compact JSON text, so that cloning and comparing it is cheap; the empty
//! object is kept as no text at all. It is parsed when it is operated on.
//!
//! # What is promised
//! * Operations take effect in order. One that does not apply changes nothing and is left out of
//!   what is recorded. Those that were recorded make the same document again, in one batch or in
//!   several: byte for byte with one version of `serde_json`, of which another one may write the
//!   same number as `1e19` or `1e+19`.
//! * A document stays an object that can be parsed: no operation nests it deeper than
//!   [`METADATA_DEPTH_MAX`].
//! * No operation writes to an unsafe key: one that the objects of JavaScript inherit. What lies
//!   within a value is data, and is not looked at.
//! * Keys keep their order, and a number that no operation touches stays as it is. Both are up to
//!   `serde_json`, with its features `preserve_order` and `float_roundtrip`.
//!
//! # Keys and paths
//! A key that begins with `$.` is a path; every other one is a literal key of the document.
//!
//! | path | leads to |
//! |---|---|
//! | `$.a.b` | key `b` of the object `a` |
//! | `$.a[0]`, `$.a.0` | item 0 of the array `a`, or its key `0` if it is an object |
//! | `$.a['b.c']`, `$.a["b.c"]`, `$.['b.c']` | a key that is quoted |
//! | `$.a.b\.c` | a key with a special character, one of ``.[]*'"\`` |
//!
//! A path makes no parents: all of it but the last step must exist. An array takes an index up to
//! its length, where the item is pushed. There are no wildcards and no slices.
//!
//! What it deliberately does not do: limit the size of what operations make, which is up to
//! whoever admits them, or know about runs and frames.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Number, Value};

use crate::{
    proto::{MetadataAction, MetadataOperation},
    record::METADATA_BYTES_MAX,
};

/// Bytes of the key of an operation, at most.
pub const METADATA_KEY_BYTES_MAX: usize = 2 << 10;
/// Objects and arrays within each other, the document included, at most: fewer than the 127 that
/// `serde_json` parses.
pub const METADATA_DEPTH_MAX: usize = 100;

/// Keys that the objects of JavaScript inherit: a reader that copies one changes every object.
const UNSAFE_KEYS: [&str; 3] = ["__proto__", "constructor", "prototype"];
/// Characters that mean something in a path, and themselves after a `\`.
const SPECIAL: [char; 7] = ['.', '[', ']', '*', '\'', '"', '\\'];
/// Greatest integer up to which JavaScript knows every one.
const SAFE_INTEGER_MAX: i128 = 1 << 53;

/// One change of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// What is done.
    pub action: Action,
    /// Where: a literal key, or a path if it begins with `$.`. Empty for [`Action::Update`].
    pub key: Arc<str>,
    /// With what, as JSON text. Empty for [`Action::Delete`].
    pub value: Bytes,
}

/// What an [`Operation`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Puts the value there, also if it is there already.
    Set,
    /// Takes the key away. It is always literal.
    Delete,
    /// Pushes the value to the array that is there. What is there and no array becomes the first
    /// item of one.
    Append,
    /// Drops what equals the value from the array that is there.
    Remove,
    /// Adds the value, a number that may be negative, to what is there. What is no number counts
    /// as 0.
    Increment,
    /// Puts the value, an object, in place of the whole document.
    Update,
}

/// What operations made of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The document they left: compact JSON text, or empty.
    pub document: Bytes,
    /// Positions of those that applied, ascending: what is to be recorded.
    pub applied: Vec<usize>,
}

/// Why an operation or a document cannot be used. `n` is the position of the operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The operation has no key. Name one, or update the whole document.
    #[error("operation {n} has no key: name one, or update the whole document")]
    NoKey {
        /// Position of the operation.
        n: usize,
    },
    /// The key is too long. Use a shorter one.
    #[error("operation {n} has a key of {size} bytes: use at most {METADATA_KEY_BYTES_MAX}")]
    KeyTooLarge {
        /// Position of the operation.
        n: usize,
        /// Bytes of the key.
        size: usize,
    },
    /// An update has a key. Leave it empty, or set the key.
    #[error("operation {n} is an update with a key: leave the key empty, or set it")]
    KeyOfUpdate {
        /// Position of the operation.
        n: usize,
    },
    /// A delete has a value. Leave it empty, or remove the value from an array.
    #[error("operation {n} is a delete with a value: leave the value empty, or remove it")]
    ValueOfDelete {
        /// Position of the operation.
        n: usize,
    },
    /// The value is not JSON text. Encode it.
    #[error("the value of operation {n} is not JSON text: {reason}")]
    NotJson {
        /// Position of the operation.
        n: usize,
        /// What the parser found, and where.
        reason: String,
    },
    /// The value of an increment is no number. Use one.
    #[error("operation {n} increments by what is no number: use one, negative to decrement")]
    NotANumber {
        /// Position of the operation.
        n: usize,
    },
    /// The value of an update is no object. Use one, or set a key.
    #[error("operation {n} updates to what is no object: use one, or set a key")]
    NotAnObject {
        /// Position of the operation.
        n: usize,
    },
    /// The document is not JSON text. Encode it.
    #[error("the document is not JSON text: {reason}")]
    DocumentNotJson {
        /// What the parser found, and where.
        reason: String,
    },
    /// The document is no object. Use one.
    #[error("the document is no object: put the value under a key of one")]
    DocumentNotAnObject,
    /// The document has an unsafe key. Rename it.
    #[error("the document has the key {key}, which is unsafe in JavaScript: rename it")]
    DocumentUnsafeKey {
        /// The key.
        key: &'static str,
    },
    /// The document is nested too deep. Flatten it.
    #[error("the document is nested {depth} deep: use at most {METADATA_DEPTH_MAX}")]
    DocumentTooDeep {
        /// Objects and arrays within each other, the document included.
        depth: usize,
    },
    /// The document is too large. Keep less in it.
    #[error("the document has {size} bytes: use at most {METADATA_BYTES_MAX}")]
    DocumentTooLarge {
        /// Bytes of it in compact form.
        size: usize,
    },
}

impl Operation {
    /// The operation as it is recorded.
    pub fn to_proto(&self) -> MetadataOperation {
        let action = match self.action {
            Action::Set => MetadataAction::Set,
            Action::Delete => MetadataAction::Delete,
            Action::Append => MetadataAction::Append,
            Action::Remove => MetadataAction::Remove,
            Action::Increment => MetadataAction::Increment,
            Action::Update => MetadataAction::Update,
        };
        let (key, value) = (self.key.as_ref().into(), self.value.clone());
        MetadataOperation { action: action.into(), key, value }
    }

    /// The operation that was recorded; none if its action is unknown.
    pub fn from_proto(operation: &MetadataOperation) -> Option<Self> {
        let action = match operation.action() {
            MetadataAction::Unspecified => return None,
            MetadataAction::Set => Action::Set,
            MetadataAction::Delete => Action::Delete,
            MetadataAction::Append => Action::Append,
            MetadataAction::Remove => Action::Remove,
            MetadataAction::Increment => Action::Increment,
            MetadataAction::Update => Action::Update,
        };
        Some(Self::new(action, operation.key.as_str(), operation.value.clone()))
    }

    /// Puts a value, which is JSON text, at a key or path.
    pub fn set(key: impl Into<Arc<str>>, value: impl Into<Bytes>) -> Self {
        Self::new(Action::Set, key, value)
    }

    /// Takes a literal key away.
    pub fn delete(key: impl Into<Arc<str>>) -> Self {
        Self::new(Action::Delete, key, Bytes::new())
    }

    /// Pushes a value, which is JSON text, to the array at a key or path.
    pub fn append(key: impl Into<Arc<str>>, value: impl Into<Bytes>) -> Self {
        Self::new(Action::Append, key, value)
    }

    /// Drops what equals a value, which is JSON text, from the array at a key or path.
    pub fn remove(key: impl Into<Arc<str>>, value: impl Into<Bytes>) -> Self {
        Self::new(Action::Remove, key, value)
    }

    /// Adds a number, which is JSON text, to the one at a key or path.
    pub fn increment(key: impl Into<Arc<str>>, number: impl Into<Bytes>) -> Self {
        Self::new(Action::Increment, key, number)
    }

    /// Puts an object, which is JSON text, in place of the document.
    pub fn update(object: impl Into<Bytes>) -> Self {
        Self::new(Action::Update, "", object)
    }

    fn new(action: Action, key: impl Into<Arc<str>>, value: impl Into<Bytes>) -> Self {
        Self { action, key: key.into(), value: value.into() }
    }

    /// Row 1: what can be said of the operation, which is number `n`, without a document.
    ///
    /// # Errors
    /// The first [`Problem`] of key or value.
    pub fn check(&self, n: usize) -> Result<(), Problem> {
        self.check_key(n)?;
        if self.action == Action::Delete {
            let absent = self.value.is_empty();
            return if absent { Ok(()) } else { Err(Problem::ValueOfDelete { n }) };
        }
        // Parsed as when it is applied: skipping over it would let pass what is no value.
        let value = serde_json::from_slice::<Value>(&self.value)
            .map_err(|error| Problem::NotJson { n, reason: error.to_string() })?;
        match self.action {
            Action::Increment if !value.is_number() => Err(Problem::NotANumber { n }),
            Action::Update if !value.is_object() => Err(Problem::NotAnObject { n }),
            _ => Ok(()),
        }
    }

    fn check_key(&self, n: usize) -> Result<(), Problem> {
        let size = self.key.len();
        match self.action {
            Action::Update if size == 0 => Ok(()),
            Action::Update => Err(Problem::KeyOfUpdate { n }),
            _ if size == 0 => Err(Problem::NoKey { n }),
            _ if METADATA_KEY_BYTES_MAX < size => Err(Problem::KeyTooLarge { n, size }),
            _ => Ok(()),
        }
    }

    /// Changes the document; if the operation does not apply, leaves it as it is and gives none.
    fn apply(&self, document: &mut Value) -> Option<()> {
        let change: fn(_, Value) -> Option<()> = match self.action {
            Action::Delete => return delete(document, &self.key),
            Action::Update => return update(document, parse(&self.value)?),
            Action::Set => Spot::set,
            Action::Append => Spot::append,
            Action::Remove => Spot::remove,
            Action::Increment => Spot::increment,
        };
        let value = parse(&self.value)?;
        change(Spot::find(document, &steps(&self.key)?)?, value)
    }
}

/// Operations that were recorded.
pub(super) fn recorded(operations: &[MetadataOperation]) -> Vec<Operation> {
    operations.iter().filter_map(Operation::from_proto).collect()
}

/// Applies operations to a document, in order.
///
/// Nothing is refused here: what is no document counts as the empty one, and an operation that
/// [`Operation::check`] would refuse does not apply.
pub fn apply(document: &Bytes, operations: &[Operation]) -> Change {
    let object = parse(document).filter(Value::is_object);
    let mut document = object.unwrap_or_else(|| Value::Object(Map::new()));
    let numbered = operations.iter().enumerate();
    let applied = numbered.filter_map(|(n, operation)| operation.apply(&mut document).map(|()| n));
    let applied = applied.collect();
    Change { document: compact(&document), applied }
}

/// Checks the document that a run begins with, and gives it in the form in which it is kept.
///
/// # Errors
/// The first [`Problem`] of the document.
pub fn check_document(text: &Bytes) -> Result<Bytes, Problem> {
    if text.is_empty() {
        return Ok(Bytes::new());
    }
    let document = serde_json::from_slice::<Value>(text)
        .map_err(|error| Problem::DocumentNotJson { reason: error.to_string() })?;
    let Value::Object(object) = &document else { return Err(Problem::DocumentNotAnObject) };
    if let Some(key) = unsafe_key(object) {
        return Err(Problem::DocumentUnsafeKey { key });
    }
    let depth = depth(&document);
    if METADATA_DEPTH_MAX < depth {
        return Err(Problem::DocumentTooDeep { depth });
    }
    let document = compact(&document);
    let size = document.len();
    if METADATA_BYTES_MAX < size {
        return Err(Problem::DocumentTooLarge { size });
    }
    Ok(document)
}

fn parse(text: &Bytes) -> Option<Value> {
    serde_json::from_slice(text).ok()
}

fn compact(document: &Value) -> Bytes {
    match document {
        Value::Object(object) if object.is_empty() => Bytes::new(),
        _ => document.to_string().into(),
    }
}

/// Objects and arrays within each other, the value included. What was parsed, or is as deep as
/// what may be kept, is no danger to the stack.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(object) => 1 + object.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn unsafe_key(object: &Map<String, Value>) -> Option<&'static str> {
    UNSAFE_KEYS.into_iter().find(|key| object.contains_key(*key))
}

fn delete(document: &mut Value, key: &str) -> Option<()> {
    if UNSAFE_KEYS.contains(&key) {
        return None;
    }
    // Not `remove`, which puts the last key in its place.
    document.as_object_mut()?.shift_remove(key).map(drop)
}

fn update(document: &mut Value, value: Value) -> Option<()> {
    let safe = unsafe_key(value.as_object()?).is_none();
    if !safe || METADATA_DEPTH_MAX < depth(&value) {
        return None;
    }
    *document = value;
    Some(())
}

/// A place in a document where a value is or can be put.
struct Spot<'a> {
    parent: Parent<'a>,
    /// Objects and arrays that a value here may have within each other.
    depth_max: usize,
}

/// What holds a place.
enum Parent<'a> {
    Object(&'a mut Map<String, Value>, &'a str),
    /// The index is at most the length.
    Array(&'a mut Vec<Value>, usize),
}

impl<'a> Spot<'a> {
    /// The place to which steps lead, if what should hold it does exist.
    fn find(document: &'a mut Value, steps: &'a [String]) -> Option<Self> {
        let (last, parents) = steps.split_last()?;
        let depth_max = METADATA_DEPTH_MAX.checked_sub(steps.len())?;
        let parent = match parents.iter().try_fold(document, child)? {
            Value::Object(object) => Parent::Object(object, last),
            Value::Array(items) => {
                let at = index(last).filter(|at| *at <= items.len())?;
                Parent::Array(items, at)
            }
            _ => return None,
        };
        Some(Self { parent, depth_max })
    }

    fn value(&mut self) -> Option<&mut Value> {
        match &mut self.parent {
            Parent::Object(object, key) => object.get_mut(*key),
            Parent::Array(items, at) => items.get_mut(*at),
        }
    }

    fn put(self, value: Value) {
        match self.parent {
            Parent::Object(object, key) => drop(object.insert(key.to_owned(), value)),
            Parent::Array(items, at) if at < items.len() => items[at] = value,
            Parent::Array(items, _) => items.push(value),
        }
    }

    fn set(self, value: Value) -> Option<()> {
        (depth(&value) <= self.depth_max).then(|| self.put(value))
    }

    fn append(mut self, value: Value) -> Option<()> {
        let depth_max = self.depth_max.checked_sub(1)?;
        if depth_max < depth(&value) {
            return None;
        }
        match self.value() {
            None => self.put(Value::Array(vec![value])),
            Some(Value::Array(items)) => items.push(value),
            Some(other) if depth_max < depth(other) => return None,
            Some(other) => *other = Value::Array(vec![other.take(), value]),
        }
        Some(())
    }

    fn remove(mut self, value: Value) -> Option<()> {
        let items = self.value()?.as_array_mut()?;
        let before = items.len();
        items.retain(|item| !equal(item, &value));
        (items.len() < before).then_some(())
    }

    fn increment(mut self, value: Value) -> Option<()> {
        let Value::Number(n) = value else { return None };
        let sum = match self.value() {
            Some(Value::Number(old)) => sum(old, &n)?,
            _ => sum(&Number::from(0), &n)?,
        };
        self.put(Value::Number(sum));
        Some(())
    }
}

fn child<'a>(value: &'a mut Value, step: &String) -> Option<&'a mut Value> {
    match value {
        Value::Object(object) => object.get_mut(step),
        Value::Array(items) => items.get_mut(index(step)?),
        _ => None,
    }
}

/// Equality as in JavaScript: 1 is 1.0, and the order of keys does not matter.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => match (integer(a), integer(b)) {
            (Some(a), Some(b)) => a == b,
            _ => a.as_f64() == b.as_f64(),
        },
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            let same = |(key, a)| b.get(key).is_some_and(|b| equal(a, b));
            a.len() == b.len() && a.iter().all(same)
        }
        _ => a == b,
    }
}

/// The sum as JavaScript has it, and none if it is not finite. What it would print as an integer
/// is one, up to where it knows every one.
fn sum(a: &Number, b: &Number) -> Option<Number> {
    let safe = |sum: &i128| (-SAFE_INTEGER_MAX..=SAFE_INTEGER_MAX).contains(sum);
    let integers = integer(a).zip(integer(b)).map(|(a, b)| a + b);
    if let Some(sum) = integers.filter(safe) {
        return Some(Number::from(sum as i64));
    }
    let sum = a.as_f64()? + b.as_f64()?;
    if sum.fract() == 0.0 && safe(&(sum as i128)) {
        return Some(Number::from(sum as i64));
    }
    Number::from_f64(sum)
}

/// The number, if it was written as an integer. Wide enough that two of them always add up.
fn integer(number: &Number) -> Option<i128> {
    number.as_i64().map(i128::from).or(number.as_u64().map(i128::from))
}

/// The steps of a key: itself if it is literal, and those of the path if it is one. None if it is
/// no well-formed path, or unsafe.
fn steps(key: &str) -> Option<Vec<String>> {
    let steps = match key.strip_prefix('$') {
        Some(path) if path.starts_with('.') => path_steps(path)?,
        _ => vec![key.to_owned()],
    };
    let safe = !steps.iter().any(|step| UNSAFE_KEYS.contains(&step.as_str()));
    safe.then_some(steps)
}

fn path_steps(path: &str) -> Option<Vec<String>> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        let dotted = rest.strip_prefix('.');
        let (step, after) = match dotted.unwrap_or(rest).strip_prefix('[') {
            Some(bracket) => bracket_step(bracket)?,
            None => name_step(dotted?)?,
        };
        steps.push(step);
        rest = after;
    }
    Some(steps)
}

/// A step as it stands between dots, and what follows it.
fn name_step(text: &str) -> Option<(String, &str)> {
    let (name, after) = unescaped(text, &['.', '[', ']']);
    // Else a wildcard, meant for many places, would make a key of that name.
    let wildcard = text.strip_suffix(after) == Some("*");
    (!name.is_empty() && !wildcard).then_some((name, after))
}

/// A step as it stands after an opening bracket, and what follows the closing one.
fn bracket_step(text: &str) -> Option<(String, &str)> {
    let (step, after) = match text.chars().next()? {
        quote @ ('\'' | '"') => {
            let (key, after) = unescaped(&text[1..], &[quote]);
            (key, after.strip_prefix(quote)?)
        }
        _ => {
            let (digits, after) = text.split_at(text.find(']')?);
            index(digits)?;
            (digits.to_owned(), after)
        }
    };
    Some((step, after.strip_prefix(']')?))
}

/// The text before the first of `ends` that is not escaped, without its escapes, and the rest.
/// A `\` before what is not special is itself.
fn unescaped<'a>(text: &'a str, ends: &[char]) -> (String, &'a str) {
    let mut found = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, char)) = chars.next() {
        if ends.contains(&char) {
            return (found, &text[at..]);
        }
        let escaped = chars.next_if(|(_, next)| char == '\\' && SPECIAL.contains(next));
        found.push(escaped.map_or(char, |(_, next)| next));
    }
    (found, "")
}

/// The index that a step is to an array: as JavaScript writes it, without sign or leading zeros.
fn index(step: &str) -> Option<usize> {
    let canonical = step == "0" || !step.starts_with(['0', '+']);
    step.parse().ok().filter(|_| canonical)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn text(document: &Value) -> Bytes {
        document.to_string().into()
    }

    /// What one operation makes of a document; none if it does not apply.
    fn one(document: &Value, operation: Operation) -> Option<Value> {
        let change = apply(&text(document), &[operation]);
        let after = parse(&change.document).unwrap_or(json!({}));
        if change.applied == [0] {
            return Some(after);
        }
        assert_eq!(after.to_string(), document.to_string(), "an unapplied one changes nothing");
        None
    }

    /// Arrays within each other, with a number inside.
    fn nested(depth: usize) -> String {
        format!("{}0{}", "[".repeat(depth), "]".repeat(depth))
    }

    const ACTIONS: [Action; 4] = [Action::Set, Action::Append, Action::Remove, Action::Increment];

    /// A target, and what the four actions make of it with the value 7.
    type Row = (Option<Value>, [Option<Value>; 4]);

    fn table() -> Vec<Row> {
        let row = |old: Value, number: i64| {
            let made = [Some(json!(7)), Some(json!([old, 7])), None, Some(json!(number))];
            (Some(old), made)
        };
        let array = [json!(7), json!([7, 8, 7.0, 7]), json!([8]), json!(7)].map(Some);
        vec![
            (None, [Some(json!(7)), Some(json!([7])), None, Some(json!(7))]),
            row(json!(null), 7),
            row(json!(true), 7),
            row(json!(1), 8),
            row(json!("7"), 7),
            row(json!({ "7": 7 }), 7),
            (Some(json!([7, 8, 7.0])), array),
            (Some(json!([])), [Some(json!(7)), Some(json!([7])), None, Some(json!(7))]),
        ]
    }

    /// The keys that lead to a target, and the document that holds it there.
    fn places(target: Option<&Value>) -> Vec<(&'static [&'static str], Value)> {
        let mut literal = json!({ "a": 1, "z": 2 });
        let mut items = json!([]);
        if let Some(target) = target {
            literal["t"] = target.clone();
            items = json!([target]);
        }
        vec![
            (&["t", "$.t", "$.['t']", "$.[\"t\"]"], literal.clone()),
            (&["$.p.t", "$.p['t']"], json!({ "p": literal })),
            (&["$.p.0", "$.p[0]", "$.p['0']"], json!({ "p": items })),
            (&["$.p[1].q.t"], json!({ "p": [0, { "q": literal }] })),
        ]
    }

    #[test]
    fn every_action_makes_of_every_target_what_the_table_says() {
        for (target, made) in table() {
            for (action, made) in ACTIONS.into_iter().zip(&made) {
                // Where the operation applies, the document is as if made with the new target.
                let expected = places(made.as_ref());
                for ((keys, before), (_, after)) in
                    places(target.as_ref()).into_iter().zip(expected)
                {
                    for key in keys {
                        let operation = Operation::new(action, *key, "7");
                        let found = one(&before, operation.clone());
                        let after = made.as_ref().map(|_| &after);
                        assert_eq!(found.as_ref(), after, "{operation:?} on {before}");
                    }
                }
            }
        }
    }

    #[test]
    fn delete_takes_literal_keys_only() {
        let document = json!({ "a": { "b": 1 }, "$.a.b": 2, "c": null });
        let without = |key: &str| {
            let mut document = document.clone();
            document.as_object_mut().unwrap().shift_remove(key);
            Some(document)
        };
        for key in ["a", "$.a.b", "c"] {
            assert_eq!(one(&document, Operation::delete(key)), without(key), "{key}");
        }
        for key in ["b", "$.a", "$.c", "a.b"] {
            assert_eq!(one(&document, Operation::delete(key)), None, "{key}");
        }
    }

    #[test]
    fn update_replaces_the_document_by_an_object_and_by_nothing_else() {
        let document = json!({ "a": 1 });
        for object in [json!({ "b": { "$.c": [] } }), json!({})] {
            let operation = Operation::update(object.to_string());
            assert_eq!(one(&document, operation), Some(object));
        }
        for value in ["[]", "1", "null", "\"{}\"", "", "{"] {
            assert_eq!(one(&document, Operation::update(value)), None, "{value}");
        }
    }

    #[test]
    fn operations_take_effect_in_order_and_those_that_do_not_apply_are_left_out() {
        let operations = [
            Operation::set("$.progress.done", "0"),
            Operation::set("progress", r#"{"total": 3}"#),
            Operation::increment("$.progress.done", "2"),
            Operation::remove("log", "1"),
            Operation::append("log", r#""started""#),
            Operation::delete("nothing"),
            Operation::append("$.log", "2"),
            Operation::increment("$.progress.done", "-0.5"),
            Operation::set("progress", "not JSON"),
        ];
        let change = apply(&Bytes::new(), &operations);
        let expected = r#"{"progress":{"total":3,"done":1.5},"log":["started",2]}"#;
        assert_eq!(change.document, expected);
        assert_eq!(change.applied, [1, 2, 4, 6, 7]);
    }

    #[test]
    fn setting_what_is_there_already_applies() {
        let document = json!({ "a": [1] });
        let set = Operation::set("a", " [ 1 ] ");
        assert_eq!(one(&document, set), Some(document));
    }

    #[test]
    fn a_path_makes_no_parents_and_no_holes() {
        let document = json!({ "a": { "n": null, "s": "text", "l": [1, { "b": 2 }] }, "$": {} });
        let keys = [
            "$.x.y",
            "$.a.x.y",
            "$.a.n.x",
            "$.a.s.x",
            "$.a.s[0]",
            "$.a.l.x",
            "$.a.l[3]",
            "$.a.l[2].x",
            "$.a.l.01",
            "$.a.l.+1",
            "$.a.l.-1",
            "$.a.l['-0']",
            "$.a.l.length",
            "$.a.l[0].x",
            "$.a.l[18446744073709551616]",
        ];
        for (key, action) in keys.iter().flat_map(|key| ACTIONS.map(|action| (*key, action))) {
            assert_eq!(one(&document, Operation::new(action, key, "1")), None, "{action:?} {key}");
        }
    }

    #[test]
    fn paths_are_read_as_written() {
        let paths: [(&str, &[&str]); 16] = [
            ("", &[""]),
            ("$", &["$"]),
            ("a.b[0]", &["a.b[0]"]),
            ("$[0]", &["$[0]"]),
            ("$['a']", &["$['a']"]),
            ("$.a", &["a"]),
            ("$.$.a b", &["$", "a b"]),
            ("$.a[0].b", &["a", "0", "b"]),
            ("$.a.0.b", &["a", "0", "b"]),
            ("$.a.[0][1]", &["a", "0", "1"]),
            ("$.['a.b'][\"c]'\"].d", &["a.b", "c]'", "d"]),
            ("$.a['']", &["a", ""]),
            (r"$.a\.b\\.c\d\", &["a.b\\", "c\\d\\"]),
            (r"$.a['it\'s \n']", &["a", r"it's \n"]),
            (r"$.\*.a*['*']", &["*", "a*", "*"]),
            ("$.ключ['клю.ч']", &["ключ", "клю.ч"]),
        ];
        for (key, expected) in paths {
            assert_eq!(steps(key).as_deref().unwrap(), expected, "{key}");
        }
        let malformed = [
            "$.",
            "$..",
            "$.a.",
            "$..a",
            "$.a..b",
            "$.a[",
            "$.a[]",
            "$.a[0",
            "$.a[x]",
            "$.a[-1]",
            "$.a[01]",
            "$.a[0:1]",
            "$.a[*]",
            "$.*",
            "$.a.*.b",
            "$.a]",
            "$.a[0]b",
            "$.a['b]",
            "$.a['b'",
            "$.a['b'c]",
            "$.a['b\"]",
            r"$.a['b\']",
            "$.['a']b",
        ];
        for key in malformed {
            assert_eq!(steps(key), None, "{key}");
            assert_eq!(one(&json!({ "a": [{ "b": 1 }] }), Operation::set(key, "1")), None, "{key}");
        }
    }

    #[test]
    fn unsafe_keys_are_not_written_to() {
        let document = json!({ "a": { "constructor": {} }, "constructor": [1], "l": [1] });
        for name in UNSAFE_KEYS {
            let keys = [
                name.to_owned(),
                format!("$.{name}"),
                format!("$.{name}.a"),
                format!("$.a.{name}"),
                format!("$.a.{name}.b"),
                format!("$.a['{name}']"),
                format!("$.{name}[0]"),
                format!("$.l.{name}"),
            ];
            for key in &keys {
                for action in ACTIONS.into_iter().chain([Action::Delete]) {
                    let operation = Operation::new(action, key.as_str(), "1");
                    assert_eq!(one(&document, operation), None, "{action:?} {key}");
                }
            }
            let update = json!({ "a": 1, name: 2 });
            assert_eq!(one(&document, Operation::update(update.to_string())), None);
            // What only looks like one is as good as any.
            assert!(one(&document, Operation::set(format!("{name}_"), "1")).is_some());
        }
    }

    #[test]
    fn increments_add_up_as_in_javascript() {
        let rows = [
            ("1", "2", "3"),
            ("1", "-2", "-1"),
            ("5", "0.0", "5"),
            ("2.5", "2.5", "5"),
            ("0.1", "0.2", "0.30000000000000004"),
            ("-0.0", "-0.0", "0"),
            ("1e3", "1", "1001"),
            ("9007199254740991", "1", "9007199254740992"),
            ("9007199254740992", "1", "9007199254740992"),
            ("-9007199254740992", "-1", "-9007199254740992"),
            ("9007199254740992", "2", "9007199254740994.0"),
            ("18446744073709551615", "18446744073709551615", "3.6893488147419103e19"),
            ("18446744073709551615", "-18446744073709551615", "0"),
            ("-9223372036854775808", "-9223372036854775808", "-1.8446744073709552e19"),
            ("1.7976931348623157e308", "-1.7976931348623157e308", "0"),
        ];
        for (old, n, sum) in rows {
            let document = Bytes::from(format!(r#"{{"n":{old}}}"#));
            let change = apply(&document, &[Operation::increment("n", n)]);
            let expected = check_document(&format!(r#"{{"n":{sum}}}"#).into()).unwrap();
            assert_eq!(change.document, expected, "{old} + {n}");
        }
        let most = json!({ "n": f64::MAX });
        assert_eq!(one(&most, Operation::increment("n", f64::MAX.to_string())), None);
        for value in ["\"1\"", "null", "[1]", "1e999", ""] {
            assert_eq!(one(&json!({}), Operation::increment("n", value)), None, "{value}");
        }
    }

    #[test]
    fn remove_drops_what_is_equal_at_any_depth() {
        let items = json!([
            1, 1.0, 1.5, true, "1", [1], [1.0], [1, 1], { "a": 1, "b": [2] },
            { "b": [2.0], "a": 1 }, { "a": 1 }, { "a": 1, "c": [2] }, u64::MAX, u64::MAX - 1, null
        ]);
        let rows: [(&str, &[usize]); 8] = [
            ("1.0", &[0, 1]),
            ("true", &[3]),
            (r#""1""#, &[4]),
            ("[1e0]", &[5, 6]),
            (r#"{"b": [2], "a": 1.0}"#, &[8, 9]),
            ("18446744073709551615", &[12]),
            ("null", &[14]),
            ("2", &[]),
        ];
        for (value, dropped) in rows {
            let kept = items.as_array().unwrap().iter().enumerate();
            let kept = kept.filter(|(n, _)| !dropped.contains(n)).map(|(_, item)| item);
            let expected = json!({ "l": kept.collect::<Vec<_>>() });
            let found = one(&json!({ "l": items }), Operation::remove("l", value));
            assert_eq!(found, (!dropped.is_empty()).then_some(expected), "{value}");
        }
    }

    #[test]
    fn keys_keep_their_order() {
        let document = Bytes::from(r#"{"z":1,"b":{"y":1,"a":2},"a":3,"c":4}"#);
        let operations = [
            Operation::delete("z"),
            Operation::set("$.b.x", "0"),
            Operation::increment("$.b.y", "1"),
            Operation::set("0", r#"{"q":1,"p":2}"#),
            Operation::set("a", "5"),
        ];
        let change = apply(&document, &operations);
        let expected = r#"{"b":{"y":2,"a":2,"x":0},"a":5,"c":4,"0":{"q":1,"p":2}}"#;
        assert_eq!(change.document, expected);
    }

    #[test]
    fn of_keys_given_twice_the_last_holds() {
        let twice = Bytes::from(r#"{"a":1,"b":2,"a":3}"#);
        assert_eq!(check_document(&twice).unwrap(), r#"{"a":3,"b":2}"#);
        let change = apply(&Bytes::new(), &[Operation::set("k", twice)]);
        assert_eq!(change.document, r#"{"k":{"a":3,"b":2}}"#);
    }

    #[test]
    fn what_no_operation_touches_stays_as_it_is() {
        let numbers = "[5.0,-0.0,0.1,1e-7,1e300,9007199254740993,18446744073709551615,-1,\
                       51.24817837550540,5e-324,1.7976931348623157e308,31.245270191439438,\
                       121.48791951161945,100.78399658203125,0.000003049560546875]";
        let before = format!(r#"{{"s":"é\n\u0001\" /","numbers":{numbers}}}"#);
        let before = check_document(&before.into()).unwrap();
        let mut document = before.clone();
        for n in 1..4 {
            let change = apply(&document, &[Operation::increment("n", "1")]);
            let expected = String::from_utf8(before.to_vec()).unwrap();
            let expected = format!(r#"{},"n":{n}}}"#, expected.strip_suffix('}').unwrap());
            assert_eq!(change.document, expected);
            document = change.document;
        }
    }

    #[test]
    fn a_document_that_cannot_be_used_counts_as_empty() {
        let deep = nested(200);
        for document in ["", "{", "[1]", "null", "7", "\u{feff}{}", &deep] {
            let document = Bytes::from(document.to_owned());
            let change = apply(&document, &[Operation::set("a", "1")]);
            assert_eq!(change.document, r#"{"a":1}"#);
            let nothing = apply(&document, &[]);
            assert_eq!(nothing, Change { document: Bytes::new(), applied: vec![] });
        }
        let change = apply(&Bytes::from(" { \"a\" : 1 } "), &[Operation::delete("a")]);
        assert_eq!(change, Change { document: Bytes::new(), applied: vec![0] });
    }

    #[test]
    fn no_operation_nests_a_document_too_deep_to_be_parsed() {
        let fits = |document: &str, operation: Operation| {
            let change = apply(&Bytes::from(document.to_owned()), &[operation]);
            let after = parse(&change.document).expect("it can be parsed");
            assert!(depth(&after) <= METADATA_DEPTH_MAX, "{}", depth(&after));
            change.applied == [0]
        };
        let max = METADATA_DEPTH_MAX;
        for (set, append) in [(max - 1, max - 2), (max, max - 1), (126, 126), (127, 127)] {
            let room = set < max;
            assert_eq!(fits(r#"{"a":1}"#, Operation::set("a", nested(set))), room, "{set}");
            assert_eq!(fits(r#"{"a":1}"#, Operation::append("a", nested(append))), room);
            assert_eq!(fits(r#"{"a":[]}"#, Operation::append("a", nested(append))), room);
            assert_eq!(fits(r#"{"b":1}"#, Operation::append("a", nested(append))), room);
            let object = format!(r#"{{"a":{}}}"#, nested(set));
            assert_eq!(fits(r#"{"b":1}"#, Operation::update(object)), room);
        }
        // The document, 98 arrays, and the place within the innermost: one level is left.
        let document = format!(r#"{{"a":{}}}"#, nested(max - 2));
        let path = format!("$.a{}", "[0]".repeat(max - 2));
        assert!(fits(&document, Operation::set(path.as_str(), "[1]")));
        assert!(fits(&document, Operation::append(path.as_str(), "1")));
        assert!(!fits(&document, Operation::set(path.as_str(), "[[1]]")));
        assert!(!fits(&document, Operation::append(path.as_str(), "[1]")));
        // What is there becomes an item of the array, one level deeper.
        let full = format!(r#"{{"a":{{"b":{}}}}}"#, nested(max - 2));
        assert!(!fits(&full, Operation::append("a", "1")));
        let room = format!(r#"{{"a":{{"b":{}}}}}"#, nested(max - 3));
        assert!(fits(&room, Operation::append("a", "1")));
    }

    #[test]
    fn a_problem_names_the_operation_and_what_is_wrong() {
        let long = |bytes| "k".repeat(bytes);
        let good = [
            Operation::set(long(METADATA_KEY_BYTES_MAX), " null "),
            Operation::set("$.is.no.path.", nested(127)),
            Operation::set("__proto__", "1"),
            Operation::delete("k"),
            Operation::append("k", "[]"),
            Operation::remove("k", "{}"),
            Operation::increment("k", "-1.5e3"),
            Operation::update("{}"),
        ];
        for operation in good {
            assert_eq!(operation.check(0), Ok(()), "{operation:?}");
        }
        let n = 3;
        let size = METADATA_KEY_BYTES_MAX + 1;
        let bad = [
            (Operation::set("", "1"), Problem::NoKey { n }),
            (Operation::delete(""), Problem::NoKey { n }),
            (Operation::remove(long(size), "1"), Problem::KeyTooLarge { n, size }),
            (Operation::new(Action::Update, "k", "{}"), Problem::KeyOfUpdate { n }),
            (Operation::new(Action::Delete, "k", "1"), Problem::ValueOfDelete { n }),
            (Operation::increment("k", "\"1\""), Problem::NotANumber { n }),
            (Operation::update("[]"), Problem::NotAnObject { n }),
        ];
        for (operation, problem) in bad {
            assert_eq!(operation.check(n), Err(problem), "{operation:?}");
        }
        let deep = nested(128);
        for value in ["", "{", "1 2", "NaN", "1e999", "'a'", "\"\\ud800\"", deep.as_str()] {
            let problem = Operation::append("k", value.to_owned()).check(n);
            assert!(matches!(problem, Err(Problem::NotJson { n: 3, .. })), "{value}: {problem:?}");
        }
    }

    #[test]
    fn the_first_document_is_an_object_in_compact_form_within_the_limits() {
        let check = |text: &str| check_document(&Bytes::from(text.to_owned()));
        assert_eq!(check(""), Ok(Bytes::new()));
        assert_eq!(check(" { } "), Ok(Bytes::new()));
        let spaced = r#" { "b" : [ 1 , {} ] , "a" : null } "#;
        assert_eq!(check(spaced).unwrap(), r#"{"b":[1,{}],"a":null}"#);
        for text in [" ", "{", "{}{}", "{'a':1}"] {
            assert!(matches!(check(text), Err(Problem::DocumentNotJson { .. })), "{text}");
        }
        for text in ["[]", "null", "1", "\"{}\""] {
            assert_eq!(check(text), Err(Problem::DocumentNotAnObject), "{text}");
        }
        for key in UNSAFE_KEYS {
            let problem = check(&json!({ "a": 1, key: {} }).to_string());
            assert_eq!(problem, Err(Problem::DocumentUnsafeKey { key }));
        }
        let deep = |depth: usize| format!(r#"{{"a":{}}}"#, nested(depth - 1));
        assert!(check(&deep(100)).is_ok());
        assert_eq!(check(&deep(101)), Err(Problem::DocumentTooDeep { depth: 101 }));
        let large = |size: usize| format!(r#"{{"a": "{}"}}"#, "x".repeat(size - 8));
        assert_eq!(check(&large(METADATA_BYTES_MAX)).unwrap().len(), METADATA_BYTES_MAX);
        let size = METADATA_BYTES_MAX + 1;
        assert_eq!(check(&large(size)), Err(Problem::DocumentTooLarge { size }));
    }

    const NAMES: [&str; 7] = ["a", "b", "0", "1", "constructor", "__proto__", "prototype"];

    /// Keys as they are used, and what is almost one.
    fn keys() -> impl Strategy<Value = String> {
        let name = || prop::sample::select(&NAMES[..]);
        let step = prop_oneof![
            4 => name().prop_map(|name| format!(".{name}")),
            2 => (0..3_usize).prop_map(|n| format!("[{n}]")),
            1 => name().prop_map(|name| format!("['{name}']")),
        ];
        prop_oneof![
            4 => name().prop_map(str::to_owned),
            6 => prop::collection::vec(step, 1..5).prop_map(|steps| format!("${}", steps.concat())),
            2 => r#"\$\.[ab01.*'"\\\[\]]{0,8}"#,
            1 => any::<String>(),
        ]
    }

    /// Values whose keys are safe.
    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-2..3_i64).prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            (-1e6..1e6_f64).prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            let object =
                prop::collection::vec((prop::sample::select(&NAMES[..4]), inner.clone()), 0..4);
            let object = object.prop_map(|fields| {
                Value::Object(
                    fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
                )
            });
            prop_oneof![prop::collection::vec(inner, 0..4).prop_map(Value::from), object]
        })
    }

    fn documents() -> impl Strategy<Value = Bytes> {
        let fields = prop::collection::vec((prop::sample::select(&NAMES[..4]), values()), 0..5);
        fields.prop_map(|fields| {
            let object = fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
            compact(&Value::Object(object))
        })
    }

    fn operations() -> impl Strategy<Value = Vec<Operation>> {
        let value = prop_oneof![
            6 => values().prop_map(|value| value.to_string()),
            2 => (-3..4_i64).prop_map(|n| n.to_string()),
            1 => keys().prop_map(|key| json!({ key: 1 }).to_string()),
            1 => any::<String>(),
        ];
        let operation = prop_oneof![
            (keys(), value.clone()).prop_map(|(key, value)| Operation::set(key, value)),
            (keys(), value.clone()).prop_map(|(key, value)| Operation::append(key, value)),
            (keys(), value.clone()).prop_map(|(key, value)| Operation::remove(key, value)),
            (keys(), value.clone()).prop_map(|(key, value)| Operation::increment(key, value)),
            keys().prop_map(Operation::delete),
            value.prop_map(Operation::update),
        ];
        prop::collection::vec(operation, 0..12)
    }

    fn has_unsafe_key(value: &Value) -> bool {
        match value {
            Value::Array(items) => items.iter().any(has_unsafe_key),
            Value::Object(object) => {
                unsafe_key(object).is_some() || object.values().any(has_unsafe_key)
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn replaying_what_applied_makes_the_same_document(
            document in documents(), operations in operations(),
        ) {
            let change = apply(&document, &operations);
            let applied: Vec<_> = change.applied.iter().map(|n| operations[*n].clone()).collect();
            let replayed = apply(&document, &applied);
            prop_assert_eq!(&replayed.document, &change.document);
            prop_assert_eq!(replayed.applied, (0..applied.len()).collect::<Vec<_>>());
            // Also one by one: the text is all there is to a document.
            let each = |document, operation: &Operation| {
                apply(&document, std::slice::from_ref(operation)).document
            };
            prop_assert_eq!(operations.iter().fold(document, each), change.document);
        }

        #[test]
        fn a_document_stays_an_object_in_compact_form_without_unsafe_keys(
            document in documents(), operations in operations(),
        ) {
            // Keys within values are not looked at: of these, only updates have unsafe ones.
            let looked_at = |operation: &Operation| {
                operation.action == Action::Update
                    || parse(&operation.value).is_none_or(|value| !has_unsafe_key(&value))
            };
            let operations: Vec<_> = operations.into_iter().filter(looked_at).collect();
            let change = apply(&document, &operations);
            prop_assert_eq!(check_document(&change.document), Ok(change.document.clone()));
            let after = parse(&change.document).unwrap_or(json!({}));
            prop_assert!(!has_unsafe_key(&after), "{}", after);
            prop_assert!(change.applied.is_sorted());
        }

        #[test]
        fn nothing_panics_whatever_is_given(
            document in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..64).prop_map(Bytes::from),
                any::<String>().prop_map(Bytes::from),
                values().prop_map(|value| text(&value)),
            ],
            operations in operations(),
            (key, value) in (any::<String>(), prop::collection::vec(any::<u8>(), 0..32)),
        ) {
            let mut operations = operations;
            operations.extend(ACTIONS.map(|action| {
                Operation::new(action, format!("$.{key}"), value.clone())
            }));
            let change = apply(&document, &operations);
            let after = parse(&change.document);
            prop_assert!(after.map_or(change.document.is_empty(), |after| after.is_object()));
            let _ = check_document(&document);
            for (n, operation) in operations.iter().enumerate() {
                let _ = operation.check(n);
            }
        }

        #[test]
        fn what_is_quoted_in_a_path_leads_to_the_key(key in any::<String>(), double: bool) {
            let quote = if double { '"' } else { '\'' };
            let special = |char| match char {
                '\\' | '\'' | '"' => format!("\\{char}"),
                _ => char.to_string(),
            };
            let quoted: String = key.chars().map(special).collect();
            prop_assume!(!UNSAFE_KEYS.contains(&key.as_str()));
            let path = format!("$.a[{quote}{quoted}{quote}]");
            let found = one(&json!({ "a": {} }), Operation::set(path, "1"));
            prop_assert_eq!(found, Some(json!({ "a": { key: 1 } })));
        }
    }
}
