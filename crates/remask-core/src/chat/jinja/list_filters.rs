//! Filters of lists and dictionaries.

use std::cmp::Ordering;

use super::arguments::{Args, count, flag, required, text};
use super::fault::{Outcome, fail};
use super::filters::{comparable, counted, length};
use super::meter::Meter;
use super::methods;
use super::operators::{self, iterate};
use super::render::Renderer;
use super::value::{Sequence, Value};

impl Renderer<'_> {
    pub(super) fn list_filter(&mut self, name: &str, value: Value, args: Args) -> Outcome<Value> {
        let meter = self.meter;
        match name {
            "length" | "count" => {
                args.none(name)?;
                counted(&value, meter).map(length)
            }
            "list" => {
                args.none(name)?;
                Value::list(iterate(&value, meter)?, meter)
            }
            "first" | "last" => {
                args.none(name)?;
                let items = iterate(&value, meter)?;
                let item = if name == "first" { items.first() } else { items.last() };
                Ok(item.cloned().unwrap_or_else(|| Value::undefined("the list is empty")))
            }
            "reverse" => {
                args.none(name)?;
                self.reverse(&value)
            }
            "items" => {
                args.none(name)?;
                match &value {
                    Value::Dict(dict) => methods::items(dict, meter),
                    Value::Undefined(_) => Value::sequence(Vec::new(), Sequence::Generator, meter),
                    other => fail(format!("items takes a dict, not {}", other.type_name())),
                }
            }
            "join" => self.joined(&value, args),
            "map" => self.map(&value, args),
            "select" | "reject" | "selectattr" | "rejectattr" => self.select(name, &value, args),
            "sort" => self.sort(&value, args),
            "dictsort" => self.dictsort(&value, args),
            "unique" => self.unique(&value, args),
            "groupby" => self.groupby(&value, args),
            "min" | "max" => self.extreme(name, &value, args),
            "sum" => self.sum(&value, args),
            "batch" | "slice" => self.batch(name, &value, args),
            other => fail(format!("there is no filter '{other}'")),
        }
    }

    fn reverse(&mut self, value: &Value) -> Outcome<Value> {
        let mut items = iterate(value, self.meter)?;
        items.reverse();
        match value {
            Value::Text(_) => operators::join(items.iter(), &Default::default(), self.meter).map(Value::text),
            _ => Value::sequence(items, Sequence::Generator, self.meter),
        }
    }

    fn joined(&mut self, value: &Value, args: Args) -> Outcome<Value> {
        let [separator, attribute] = args.bind("join", ["d", "attribute"])?;
        let separator = text(separator, "", self.meter)?;
        let mut items = iterate(value, self.meter)?;
        if let Some(attribute) = attribute.filter(|attribute| !matches!(attribute, Value::None)) {
            for item in &mut items {
                *item = self.path(item, &attribute)?;
            }
        }
        operators::join(items.iter(), &separator, self.meter).map(Value::text)
    }

    /// The value at `a.b.0` in another.
    fn path(&mut self, value: &Value, path: &Value) -> Outcome<Value> {
        self.meter.steps(1)?;
        let Value::Text(path) = path else { return self.item(value, path) };
        let mut found = value.clone();
        for part in path.text.split('.') {
            let key = match part.parse() {
                Ok(place) if part.bytes().all(|b| b.is_ascii_digit()) => Value::Int(place),
                _ => Value::plain(part),
            };
            found = self.item(&found, &key)?;
        }
        Ok(found)
    }

    /// The items of what is not empty or none.
    fn any_items(&mut self, value: &Value) -> Outcome<Vec<Value>> {
        if value.is_true() { iterate(value, self.meter) } else { Ok(Vec::new()) }
    }

    fn map(&mut self, value: &Value, mut args: Args) -> Outcome<Value> {
        let items = self.any_items(value)?;
        let mut mapped = Vec::with_capacity(items.len());
        if args.positional.is_empty() {
            let [attribute, default] = args.bind("map", ["attribute", "default"])?;
            let attribute = required(attribute, "map", "attribute")?;
            for item in items {
                let found = self.path(&item, &attribute)?;
                let missing = matches!(found, Value::Undefined(_));
                mapped.push(default.clone().filter(|_| missing).unwrap_or(found));
            }
        } else {
            let name = text(Some(args.positional.remove(0)), "", self.meter)?;
            for item in items {
                let args = Args { positional: args.positional.clone(), named: args.named.clone() };
                mapped.push(self.deeper(|renderer| renderer.filter(&name.text, item, args))?);
            }
        }
        Value::sequence(mapped, Sequence::Generator, self.meter)
    }

    fn select(&mut self, name: &str, value: &Value, mut args: Args) -> Outcome<Value> {
        let attribute = match name.ends_with("attr") {
            true if args.positional.is_empty() => return fail(format!("{name} needs an attribute")),
            true => Some(args.positional.remove(0)),
            false => None,
        };
        let test = match args.positional.is_empty() {
            true => None,
            false => Some(text(Some(args.positional.remove(0)), "", self.meter)?),
        };
        let wanted = name.starts_with("select");
        let mut kept = Vec::new();
        for item in self.any_items(value)? {
            let tested = match &attribute {
                Some(attribute) => self.path(&item, attribute)?,
                None => item.clone(),
            };
            let holds = match &test {
                Some(test) => {
                    let args = Args { positional: args.positional.clone(), named: args.named.clone() };
                    self.test(&test.text, &tested, args)?
                }
                None => tested.is_true(),
            };
            if holds == wanted {
                kept.push(item);
            }
        }
        Value::sequence(kept, Sequence::Generator, self.meter)
    }

    /// Items, each with what it is compared by.
    fn keyed(&mut self, items: Vec<Value>, attribute: Option<&Value>, case_sensitive: bool) -> Outcome<Keyed> {
        let mut keyed = Vec::with_capacity(items.len());
        for item in items {
            let key = match attribute {
                None | Some(Value::None) => comparable(&item, case_sensitive, self.meter)?,
                Some(Value::Text(paths)) if paths.text.contains(',') => {
                    let mut keys = Vec::new();
                    for path in paths.text.split(',') {
                        let found = self.path(&item, &Value::plain(path))?;
                        keys.push(comparable(&found, case_sensitive, self.meter)?);
                    }
                    Value::sequence(keys, Sequence::Tuple, self.meter)?
                }
                Some(path) => {
                    let found = self.path(&item, path)?;
                    comparable(&found, case_sensitive, self.meter)?
                }
            };
            keyed.push((key, item));
        }
        Ok(keyed)
    }

    fn sort(&mut self, value: &Value, args: Args) -> Outcome<Value> {
        let [reverse, case_sensitive, attribute] = args.bind("sort", ["reverse", "case_sensitive", "attribute"])?;
        let items = iterate(value, self.meter)?;
        let keyed = self.keyed(items, attribute.as_ref(), flag(case_sensitive, false))?;
        let sorted = sorted(keyed, flag(reverse, false), self.meter)?;
        Value::list(sorted.into_iter().map(|(_, item)| item).collect(), self.meter)
    }

    fn dictsort(&mut self, value: &Value, args: Args) -> Outcome<Value> {
        let [case_sensitive, by, reverse] = args.bind("dictsort", ["case_sensitive", "by", "reverse"])?;
        let case_sensitive = flag(case_sensitive, false);
        let Value::Dict(dict) = value else {
            return fail(format!("dictsort takes a dict, not {}", value.type_name()));
        };
        let by_value = match text(by, "key", self.meter)?.text.as_str() {
            "key" => false,
            "value" => true,
            _ => return fail("dictsort: by is 'key' or 'value'"),
        };
        let mut keyed = Vec::with_capacity(dict.entries.len());
        for (key, value) in &dict.entries {
            let by = comparable(if by_value { value } else { key }, case_sensitive, self.meter)?;
            let pair = vec![key.clone(), value.clone()];
            keyed.push((by, Value::owned_sequence(pair, Sequence::Tuple, dict.user, self.meter)?));
        }
        let sorted = sorted(keyed, flag(reverse, false), self.meter)?;
        Value::list(sorted.into_iter().map(|(_, pair)| pair).collect(), self.meter)
    }

    fn unique(&mut self, value: &Value, args: Args) -> Outcome<Value> {
        let [case_sensitive, attribute] = args.bind("unique", ["case_sensitive", "attribute"])?;
        let items = iterate(value, self.meter)?;
        let mut kept: Keyed = Vec::new();
        for (key, item) in self.keyed(items, attribute.as_ref(), flag(case_sensitive, false))? {
            let mut known = false;
            for (other, _) in &kept {
                known = known || other.equals(&key, self.meter)?;
            }
            if !known {
                kept.push((key, item));
            }
        }
        Value::sequence(kept.into_iter().map(|(_, item)| item).collect(), Sequence::Generator, self.meter)
    }

    fn groupby(&mut self, value: &Value, args: Args) -> Outcome<Value> {
        let [attribute, default, case_sensitive] = args.bind("groupby", ["attribute", "default", "case_sensitive"])?;
        let attribute = required(attribute, "groupby", "attribute")?;
        let case_sensitive = flag(case_sensitive, false);
        let mut keyed = Vec::new();
        for item in iterate(value, self.meter)? {
            let mut key = self.path(&item, &attribute)?;
            if let (Value::Undefined(_), Some(default)) = (&key, &default) {
                key = default.clone();
            }
            keyed.push((comparable(&key, case_sensitive, self.meter)?, key, item));
        }
        let places = (0..keyed.len()).map(length);
        let keys: Keyed = keyed.iter().map(|(by, ..)| by.clone()).zip(places).collect();
        let mut groups: Vec<(Value, Value, Vec<Value>)> = Vec::new();
        for (by, place) in sorted(keys, false, self.meter)? {
            let Value::Int(place) = place else { continue };
            let Some((_, key, item)) = usize::try_from(place).ok().and_then(|place| keyed.get(place)) else {
                continue;
            };
            match groups.last_mut() {
                Some((last, _, items)) if last.equals(&by, self.meter)? => items.push(item.clone()),
                _ => groups.push((by, key.clone(), vec![item.clone()])),
            }
        }
        let pair = |(_, key, items): (Value, Value, Vec<Value>)| {
            let pair = vec![key, Value::list(items, self.meter)?];
            Value::sequence(pair, Sequence::Group, self.meter)
        };
        let groups = groups.into_iter().map(pair).collect::<Outcome<_>>()?;
        Value::list(groups, self.meter)
    }

    fn extreme(&mut self, name: &str, value: &Value, args: Args) -> Outcome<Value> {
        let [case_sensitive, attribute] = args.bind(name, ["case_sensitive", "attribute"])?;
        let items = iterate(value, self.meter)?;
        let wanted = if name == "min" { Ordering::Less } else { Ordering::Greater };
        let mut best: Option<(Value, Value)> = None;
        for (key, item) in self.keyed(items, attribute.as_ref(), flag(case_sensitive, false))? {
            let better = match &best {
                Some((other, _)) => operators::order(&key, other, self.meter)? == Some(wanted),
                None => true,
            };
            if better {
                best = Some((key, item));
            }
        }
        Ok(best.map_or_else(|| Value::undefined("the list is empty"), |(_, item)| item))
    }

    fn sum(&mut self, value: &Value, args: Args) -> Outcome<Value> {
        let [attribute, start] = args.bind("sum", ["attribute", "start"])?;
        let mut sum = start.unwrap_or(Value::Int(0));
        for item in iterate(value, self.meter)? {
            let item = match &attribute {
                None | Some(Value::None) => item,
                Some(path) => self.path(&item, path)?,
            };
            sum = operators::arithmetic(super::ast::Operator::Add, &sum, &item, self.meter)?;
        }
        Ok(sum)
    }

    fn batch(&mut self, name: &str, value: &Value, args: Args) -> Outcome<Value> {
        let [size, fill] = args.bind(name, ["count", "fill_with"])?;
        let size = count(Some(required(size, name, "count")?), name, 0)?;
        let fill = fill.filter(|fill| !matches!(fill, Value::None));
        if size == 0 {
            return fail(format!("{name} takes a count above zero"));
        }
        self.meter.items(size)?;
        let items = iterate(value, self.meter)?;
        let mut lists: Vec<Vec<Value>> = Vec::new();
        if name == "batch" {
            lists.extend(items.chunks(size).map(<[Value]>::to_vec));
            if let (Some(fill), Some(last)) = (fill, lists.last_mut()) {
                last.resize(size, fill);
            }
        } else {
            let (each, more) = (items.len() / size, items.len() % size);
            let mut rest = items.into_iter();
            for at in 0..size {
                let mut list: Vec<Value> = rest.by_ref().take(each + usize::from(at < more)).collect();
                list.extend(fill.clone().filter(|_| more > 0 && at >= more));
                lists.push(list);
            }
        }
        let lists = lists.into_iter().map(|list| Value::list(list, self.meter)).collect::<Outcome<_>>()?;
        Value::sequence(lists, Sequence::Generator, self.meter)
    }
}

/// Items with what they are compared by.
type Keyed = Vec<(Value, Value)>;

/// Items in order, equal ones in the order in which they came. A merge sort of our own, because a comparison
/// can fail, and values need not have an order that is total.
fn sorted(mut items: Keyed, reverse: bool, meter: &Meter) -> Outcome<Keyed> {
    if items.len() < 2 {
        return Ok(items);
    }
    let right = items.split_off(items.len() / 2);
    let mut left = sorted(items, reverse, meter)?.into_iter().peekable();
    let mut right = sorted(right, reverse, meter)?.into_iter().peekable();
    let mut merged = Vec::with_capacity(left.len() + right.len());
    let takes_right = if reverse { Ordering::Greater } else { Ordering::Less };
    while let (Some((a, _)), Some((b, _))) = (left.peek(), right.peek()) {
        let next = if operators::order(b, a, meter)? == Some(takes_right) { right.next() } else { left.next() };
        merged.extend(next);
    }
    merged.extend(left);
    merged.extend(right);
    Ok(merged)
}
