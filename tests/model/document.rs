//! The metadata document of the model: a JSON value, and operations done to it in the plainest way.
//!
//! Paths are those that the generator makes: names between dots, and indices in brackets.

use std::rc::Rc;

use braidlog::{
    core::{Action, Operation},
    proto::{MetadataAction, MetadataOperation},
};
use bytes::Bytes;
use serde_json::{Map, Number, Value, json};

/// A document and its text; the empty one has none.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    value: Rc<Value>,
    text: Rc<str>,
}

/// The operation as it is recorded.
pub(crate) fn to_proto(operation: &Operation) -> MetadataOperation {
    let action = match operation.action {
        Action::Set => MetadataAction::Set,
        Action::Delete => MetadataAction::Delete,
        Action::Append => MetadataAction::Append,
        Action::Remove => MetadataAction::Remove,
        Action::Increment => MetadataAction::Increment,
        Action::Update => MetadataAction::Update,
    };
    let (key, value) = (operation.key.as_ref().into(), operation.value.clone());
    MetadataOperation { action: action.into(), key, value }
}

impl Document {
    /// The document of this text, which is an object or empty.
    pub(crate) fn parse(text: &Bytes) -> Self {
        let value = if text.is_empty() { b"{}" } else { &text[..] };
        Self::of(serde_json::from_slice(value).expect("an object"))
    }

    fn of(value: Value) -> Self {
        let is_empty = value.as_object().is_some_and(Map::is_empty);
        let text = if is_empty { String::new() } else { value.to_string() };
        Self { value: Rc::new(value), text: text.into() }
    }

    /// Whether a text says the same.
    pub(crate) fn is(&self, text: &Bytes) -> bool {
        *self.text.as_bytes() == text[..] || self.value == Self::parse(text).value
    }

    /// Bytes of its text.
    pub(crate) fn len(&self) -> usize {
        self.text.len()
    }

    /// Does operations in order, and gives those that did apply.
    pub(crate) fn apply(&mut self, operations: &[Operation]) -> Vec<MetadataOperation> {
        let mut value = (*self.value).clone();
        let applied: Vec<_> =
            operations.iter().filter(|o| operate(&mut value, o).is_some()).map(to_proto).collect();
        if !applied.is_empty() {
            *self = Self::of(value);
        }
        applied
    }
}

fn operate(document: &mut Value, operation: &Operation) -> Option<()> {
    let is_safe = |step: &str| !["__proto__", "constructor", "prototype"].contains(&step);
    let value = || serde_json::from_slice::<Value>(&operation.value).expect("JSON");
    match operation.action {
        Action::Update => {
            let object = value();
            object.as_object()?.keys().all(|key| is_safe(key)).then(|| *document = object)
        }
        Action::Delete => {
            document.as_object_mut()?.shift_remove(&*operation.key)?;
            Some(())
        }
        _ => {
            let path = operation.key.strip_prefix("$.").map(|path| path.replace('[', "."));
            let path = path.map(|path| path.replace(']', ""));
            let steps: Vec<&str> = match &path {
                Some(path) => path.split('.').collect(),
                None => vec![&operation.key],
            };
            if !steps.iter().all(|step| is_safe(step)) {
                return None;
            }
            let (last, parents) = steps.split_last()?;
            let mut parent = document;
            for step in parents {
                parent = match parent {
                    Value::Object(object) => object.get_mut(*step)?,
                    Value::Array(items) => items.get_mut(step.parse::<usize>().ok()?)?,
                    _ => return None,
                };
            }
            let found = match &*parent {
                Value::Object(object) => object.get(*last),
                Value::Array(items) => match step_of(last) {
                    Some(at) if at <= items.len() => items.get(at),
                    _ => return None,
                },
                _ => return None,
            };
            let made = result(operation.action, found, value())?;
            match parent {
                Value::Object(object) => drop(object.insert((*last).into(), made)),
                Value::Array(items) => match step_of(last)? {
                    at if at < items.len() => items[at] = made,
                    _ => items.push(made),
                },
                _ => return None,
            }
            Some(())
        }
    }
}

fn step_of(step: &str) -> Option<usize> {
    step.parse().ok()
}

/// What an operation makes of what is there.
fn result(action: Action, found: Option<&Value>, value: Value) -> Option<Value> {
    match (action, found) {
        (Action::Set, _) => Some(value),
        (Action::Append, None) => Some(json!([value])),
        (Action::Append, Some(Value::Array(items))) => {
            Some(items.iter().cloned().chain([value]).collect())
        }
        (Action::Append, Some(old)) => Some(json!([old, value])),
        (Action::Remove, Some(Value::Array(items))) => {
            let kept: Vec<Value> =
                items.iter().filter(|item| !equal(item, &value)).cloned().collect();
            (kept.len() < items.len()).then_some(Value::Array(kept))
        }
        (Action::Increment, old) => {
            let sum = old.and_then(Value::as_f64).unwrap_or(0.0) + value.as_f64()?;
            let number = match sum.fract() == 0.0 {
                true => Some(Number::from(sum as i64)),
                false => Number::from_f64(sum),
            };
            number.map(Value::Number)
        }
        _ => None,
    }
}

/// Equality as in JavaScript, where 1 is 1.0.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            let mut keys = a.keys().chain(b.keys());
            keys.all(|key| matches!((a.get(key), b.get(key)), (Some(a), Some(b)) if equal(a, b)))
        }
        _ => a == b,
    }
}
