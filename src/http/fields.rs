//! Reading the fields of a JSON object and collecting every problem, so that one answer tells all.

use serde_json::{Map, Value};

use crate::control::error::FieldProblem;

/// Problems told in one answer; more would help nobody.
const MOST: usize = 100;

/// Everything found wrong so far.
#[derive(Debug, Default)]
pub struct Problems(Vec<FieldProblem>);

impl Problems {
    pub fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        if self.0.len() < MOST {
            self.0.push(FieldProblem::new(field, message));
        }
    }

    pub fn extend(&mut self, more: Vec<FieldProblem>) {
        for problem in more {
            self.add(problem.field, problem.message);
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[must_use]
    pub fn into_details(self) -> Vec<FieldProblem> {
        self.0
    }
}

/// One object of the body, and where in the body it stands.
pub struct Fields {
    object: Map<String, Value>,
    path: String,
}

impl Fields {
    /// The object itself, or a problem that says what it should have been.
    pub fn of(value: Value, path: &str, problems: &mut Problems) -> Option<Self> {
        match value {
            Value::Object(object) => Some(Self { object, path: path.to_owned() }),
            _ => {
                problems.add(if path.is_empty() { "body" } else { path }, "must be an object");
                None
            }
        }
    }

    #[must_use]
    pub fn name(&self, field: &str) -> String {
        if self.path.is_empty() { field.to_owned() } else { format!("{}.{field}", self.path) }
    }

    /// The value of a field; `null` counts as absent.
    pub fn take(&mut self, field: &str) -> Option<Value> {
        self.object.remove(field).filter(|v| !v.is_null())
    }

    /// A text within bounds (in characters).
    pub fn text(&mut self, field: &str, most: usize, problems: &mut Problems) -> Option<String> {
        match self.take(field)? {
            Value::String(text) if text.contains('\0') => {
                problems.add(self.name(field), "must not contain NUL");
                None
            }
            Value::String(text) if text.chars().count() <= most => Some(text),
            Value::String(_) => {
                problems.add(self.name(field), format!("must have at most {most} characters"));
                None
            }
            _ => {
                problems.add(self.name(field), "must be a string");
                None
            }
        }
    }

    pub fn required_text(&mut self, field: &str, most: usize, problems: &mut Problems) -> Option<String> {
        if self.object.get(field).is_none_or(Value::is_null) {
            self.object.remove(field);
            problems.add(self.name(field), "is required");
            return None;
        }
        self.text(field, most, problems)
    }

    /// A text that is parsed into something, such as an id.
    pub fn parsed<T, E: std::fmt::Display>(
        &mut self,
        field: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
        problems: &mut Problems,
    ) -> Option<T> {
        let text = self.required_text(field, 1_000, problems)?;
        parse(&text).map_err(|e| problems.add(self.name(field), e.to_string())).ok()
    }

    pub fn boolean(&mut self, field: &str, problems: &mut Problems) -> Option<bool> {
        match self.take(field)? {
            Value::Bool(b) => Some(b),
            _ => {
                problems.add(self.name(field), "must be true or false");
                None
            }
        }
    }

    pub fn list(&mut self, field: &str, problems: &mut Problems) -> Option<Vec<Value>> {
        match self.take(field)? {
            Value::Array(list) => Some(list),
            _ => {
                problems.add(self.name(field), "must be a list");
                None
            }
        }
    }

    pub fn object(&mut self, field: &str, problems: &mut Problems) -> Option<Fields> {
        let value = self.take(field)?;
        Fields::of(value, &self.name(field), problems)
    }

    /// The remaining names and values, for objects whose keys are free.
    #[must_use]
    pub fn into_entries(self) -> Map<String, Value> {
        self.object
    }

    /// What is left over was not asked for: most likely a misspelt name.
    pub fn finish(self, problems: &mut Problems) {
        for field in self.object.keys() {
            let shown: String = field.chars().take(64).collect();
            problems.add(self.name(&shown), "is not a field of this request");
        }
    }
}
