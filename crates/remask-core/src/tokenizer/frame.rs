//! What the reference puts around a text that is no conversation: a start id, an end id, or nothing.

use serde_json::{Value, json};

use super::parts;

/// Ids before and after a text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) before: Vec<u32>,
    pub(super) after: Vec<u32>,
}

impl Frame {
    /// Reads the `post_processor` of a tokenizer.json; `None` where it has none.
    ///
    /// # Errors
    /// Where it is of an unknown kind, or names a token without saying its ids.
    pub(super) fn from_json(value: &Value) -> Result<Option<Self>, String> {
        if value.is_null() {
            return Ok(None);
        }
        let mut frame = Self::default();
        for leaf in parts::leaves(value, "post_processor", "processors")? {
            match leaf.kind {
                "TemplateProcessing" => frame.wrap(template(leaf.value)?),
                "BertProcessing" | "RobertaProcessing" => {
                    // ["[CLS]", 101]
                    let id = |key: &str| leaf.value.get(key).and_then(|pair| pair.get(1)).and_then(as_id);
                    let (cls, sep) = (id("cls"), id("sep"));
                    let ids = cls.zip(sep).ok_or_else(|| format!("post_processor {}: cls and sep", leaf.kind))?;
                    frame.wrap(Self { before: vec![ids.0], after: vec![ids.1] });
                }
                // It changes where tokens are said to lie, not which there are.
                "ByteLevel" => (),
                other => return Err(format!("post_processor {other:?} is not known")),
            }
        }
        Ok(Some(frame))
    }

    /// As a tokenizer.json has it; `text` is the text of an id.
    pub(super) fn to_json(&self, text: impl Fn(u32) -> String) -> Value {
        let token = |id: &u32| json!({"SpecialToken": {"id": text(*id), "type_id": 0}});
        let single = |kind: &str, n: u8| json!({"Sequence": {"id": kind, "type_id": n}});
        let around = |inner: Vec<Value>| -> Vec<Value> {
            self.before.iter().map(token).chain(inner).chain(self.after.iter().map(token)).collect()
        };
        let special = self.before.iter().chain(&self.after).map(|id| {
            let text = text(*id);
            (text.clone(), json!({"id": text, "ids": [id], "tokens": [text]}))
        });
        json!({
            "type": "TemplateProcessing",
            "single": around(vec![single("A", 0)]),
            "pair": around(vec![single("A", 0), single("B", 1)]),
            "special_tokens": special.collect::<serde_json::Map<_, _>>(),
        })
    }

    /// Puts another frame around this one.
    fn wrap(&mut self, mut outer: Self) {
        outer.before.append(&mut self.before);
        self.after.append(&mut outer.after);
        self.before = outer.before;
    }
}

fn as_id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

/// The ids around sequence A in the template for one text.
fn template(value: &Value) -> Result<Frame, String> {
    let broken = |what: &str| format!("post_processor TemplateProcessing: {what}");
    let single = value.get("single").and_then(Value::as_array).ok_or_else(|| broken("no template for one text"))?;
    let mut frame = Frame::default();
    let mut behind = false;
    for piece in single {
        if piece.get("Sequence").is_some() {
            behind = true;
            continue;
        }
        let name = piece.get("SpecialToken").and_then(|t| t.get("id")).and_then(Value::as_str);
        let name = name.ok_or_else(|| broken("a piece that is neither a text nor a token"))?;
        let ids = value.get("special_tokens").and_then(|all| all.get(name)).and_then(|t| t.get("ids"));
        let ids = ids.and_then(Value::as_array).and_then(|ids| ids.iter().map(as_id).collect::<Option<Vec<_>>>());
        let ids = ids.ok_or_else(|| broken(&format!("the ids of {name:?} are missing")))?;
        if behind { &mut frame.after } else { &mut frame.before }.extend(ids);
    }
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_and_their_like() {
        let template = json!({
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                       {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]},
                                           "</s>": {"id": "</s>", "ids": [2, 3], "tokens": ["</s>", "x"]}},
        });
        let bytes = json!({"type": "ByteLevel", "trim_offsets": true});
        let all = json!({"type": "Sequence", "processors": [bytes, template]});
        let frame = Frame { before: vec![1], after: vec![2, 3] };
        assert_eq!(Frame::from_json(&all), Ok(Some(frame)));
        assert_eq!(Frame::from_json(&bytes), Ok(Some(Frame::default())));
        assert_eq!(Frame::from_json(&Value::Null), Ok(None));
        let roberta = json!({"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0]});
        assert_eq!(Frame::from_json(&roberta), Ok(Some(Frame { before: vec![0], after: vec![2] })));
        assert_eq!(Frame::from_json(&Frame { before: vec![1], after: vec![2] }.to_json(|id| id.to_string())), {
            Ok(Some(Frame { before: vec![1], after: vec![2] }))
        });
        let mut unnamed = template;
        unnamed["special_tokens"]["<s>"] = Value::Null;
        assert!(Frame::from_json(&unnamed).unwrap_err().contains("\"<s>\""));
        assert!(Frame::from_json(&json!({"type": "Other"})).is_err());
    }
}
