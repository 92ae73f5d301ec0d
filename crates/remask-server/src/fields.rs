//! Fields of a JSON object, one by one: null is as good as left out, and a mistake names its field.

use serde_json::{Map, Value};

use crate::error::ApiError;

type Result<T> = std::result::Result<T, ApiError>;

/// An object of a request.
#[derive(Clone, Copy)]
pub struct Fields<'a> {
    object: &'a Map<String, Value>,
    /// What stands before a field's name in messages.
    prefix: &'a str,
}

impl<'a> Fields<'a> {
    /// The fields of a request's body.
    pub fn of(body: &'a Value) -> Result<Self> {
        let object = body.as_object().ok_or_else(|| ApiError::invalid("the request must be a JSON object"))?;
        Ok(Self { object, prefix: "" })
    }

    /// The fields of an object inside, which messages call `prefix`.
    pub fn inside(object: &'a Map<String, Value>, prefix: &'a str) -> Self {
        Self { object, prefix }
    }

    /// A field's full name.
    pub fn name(&self, field: &str) -> String {
        format!("{}{field}", self.prefix)
    }

    /// The value of a field that is there and not null.
    pub fn get(&self, field: &str) -> Option<&'a Value> {
        self.object.get(field).filter(|value| !value.is_null())
    }

    fn wrong<T>(&self, field: &str, expected: &str) -> Result<T> {
        let name = self.name(field);
        Err(ApiError::field(name.clone(), format!("{name} must be {expected}")))
    }

    /// A switch.
    pub fn bool(&self, field: &str) -> Result<Option<bool>> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Bool(on)) => Ok(Some(*on)),
            Some(_) => self.wrong(field, "true or false"),
        }
    }

    /// A text.
    pub fn string(&self, field: &str) -> Result<Option<&'a str>> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => self.wrong(field, "a string"),
        }
    }

    /// A number between two others.
    pub fn number(&self, field: &str, least: f64, most: f64) -> Result<Option<f32>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if (least..=most).contains(&number) => Ok(Some(number as f32)),
            _ => self.wrong(field, &format!("a number from {least} to {most}")),
        }
    }

    /// A whole number between two others.
    pub fn integer(&self, field: &str, least: u64, most: u64) -> Result<Option<u64>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match whole(value).and_then(|number| u64::try_from(number).ok()) {
            Some(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ if most == u64::MAX => self.wrong(field, &format!("a whole number of at least {least}")),
            _ => self.wrong(field, &format!("a whole number from {least} to {most}")),
        }
    }

    /// A whole number of any sign, as its 64 bits.
    pub fn bits(&self, field: &str) -> Result<Option<u64>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match whole(value) {
            Some(number) if (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(&number) => Ok(Some(number as u64)),
            _ => self.wrong(field, "a whole number of 64 bits"),
        }
    }

    /// One text or several, at most so many.
    pub fn strings(&self, field: &str, most: usize) -> Result<Vec<String>> {
        let texts = match self.get(field) {
            None => return Ok(Vec::new()),
            Some(Value::String(text)) => Some(vec![text.clone()]),
            Some(Value::Array(all)) => all.iter().map(|text| text.as_str().map(str::to_owned)).collect(),
            Some(_) => None,
        };
        match texts {
            Some(texts) if texts.len() <= most => Ok(texts),
            _ => self.wrong(field, &format!("a string or a list of at most {most} strings")),
        }
    }

    /// A list of ids.
    pub fn ids(&self, field: &str) -> Result<Option<Vec<u32>>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match ids_of(value) {
            Some(ids) => Ok(Some(ids)),
            None => self.wrong(field, "a list of token ids"),
        }
    }

    /// An object.
    pub fn object(&self, field: &str) -> Result<Option<&'a Map<String, Value>>> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(_) => self.wrong(field, "an object"),
        }
    }

    /// Refuses a field unless it is left out or says what happens anyway.
    pub fn refuse_unless(&self, field: &str, neutral: impl Fn(&Value) -> bool, why: &str) -> Result<()> {
        match self.get(field) {
            Some(value) if !neutral(value) => {
                let name = self.name(field);
                Err(ApiError::unsupported(name.clone(), format!("{name} is not supported: {why}")))
            }
            _ => Ok(()),
        }
    }
}

/// A number without a fraction, however it is written.
fn whole(value: &Value) -> Option<i128> {
    if let Some(number) = value.as_i64() {
        return Some(number.into());
    }
    if let Some(number) = value.as_u64() {
        return Some(number.into());
    }
    // 16.0 is what some languages write for 16; beyond 2^53 they cannot tell neighbours apart.
    value.as_f64().filter(|number| number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0).map(|n| n as i128)
}

/// A list of token ids.
pub fn ids_of(value: &Value) -> Option<Vec<u32>> {
    value.as_array()?.iter().map(|id| whole(id).and_then(|id| u32::try_from(id).ok())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn null_is_left_out_and_mistakes_name_their_field() {
        let body = json!({"a": null, "b": 1.5, "c": "x", "d": -3, "e": 16.0, "f": true, "g": ["x", 1], "h": [1, 2]});
        let fields = Fields::of(&body).unwrap();
        assert_eq!(fields.bool("a").unwrap(), None);
        assert_eq!(fields.number("b", 0.0, 2.0).unwrap(), Some(1.5));
        assert_eq!(fields.integer("e", 1, 20).unwrap(), Some(16));
        assert_eq!(fields.bits("d").unwrap(), Some(-3i64 as u64));
        assert_eq!(fields.strings("c", 4).unwrap(), ["x"]);
        assert_eq!(fields.ids("h").unwrap(), Some(vec![1, 2]));
        for problem in [
            fields.bool("b").map(|_| ()),
            fields.number("b", 0.0, 1.0).map(|_| ()),
            fields.integer("b", 0, 9).map(|_| ()),
            fields.integer("d", 0, 9).map(|_| ()),
            fields.string("f").map(|_| ()),
            fields.strings("g", 4).map(|_| ()),
            fields.ids("g").map(|_| ()),
            fields.refuse_unless("f", |v| *v == json!(false), "no"),
        ] {
            let problem = problem.unwrap_err();
            assert!(problem.message.starts_with(problem.param.as_deref().unwrap()), "{problem:?}");
        }
        assert!(Fields::of(&json!([])).is_err());
    }
}
