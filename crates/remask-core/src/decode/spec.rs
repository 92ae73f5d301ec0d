//! Decoder settings as short texts, `NAME` or `NAME:NUMBER,…`, the same on the command line, in a
//! request's JSON and in the browser. What is left out takes its default.

use std::fmt;
use std::str::FromStr;

use super::accept::{Acceptance, Order};
use super::cache::Cache;
use super::options::{AdaptiveSteps, Revision};
use crate::error::{Error, Result};

/// The numbers behind a name.
struct Numbers<'a> {
    whole: &'a str,
    rest: Vec<&'a str>,
    next: usize,
}

impl<'a> Numbers<'a> {
    /// Splits a text into its name and its numbers.
    fn of(text: &'a str) -> (&'a str, Self) {
        let (name, numbers) = text.split_once(':').unwrap_or((text, ""));
        let rest = numbers.split(',').map(str::trim).filter(|n| !n.is_empty()).collect();
        (name.trim(), Self { whole: text, rest, next: 0 })
    }

    /// The next number, or `default` where there is none.
    fn take<T: FromStr>(&mut self, default: T) -> Result<T> {
        let Some(text) = self.rest.get(self.next) else { return Ok(default) };
        self.next += 1;
        text.parse().map_err(|_| Error::Request(format!("{text:?} in {:?} is not a number that fits here", self.whole)))
    }

    /// `value`, if every number was used.
    fn end<T>(self, value: T) -> Result<T> {
        match self.rest.get(self.next) {
            Some(extra) => Err(Error::Request(format!("{:?} has a number too many: {extra}", self.whole))),
            None => Ok(value),
        }
    }
}

fn unknown<T>(what: &str, text: &str, known: &str) -> Result<T> {
    Err(Error::Request(format!("{what} {text:?} is not known; there are {known}")))
}

impl FromStr for Acceptance {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, mut n) = Numbers::of(text);
        let rule = match name {
            "quota" | "low-confidence" => Self::Quota(Order::LowConfidence),
            "random" => Self::Quota(Order::Random),
            "threshold" => Self::Threshold(n.take(0.9)?),
            "factor" => Self::Factor(n.take(1.0)?),
            "entropy" => Self::EntropyBound(n.take(0.15)?),
            "margin" => Self::Margin(n.take(0.8)?),
            "hierarchy" => Self::Hierarchy { threshold: n.take(0.9)?, low: n.take(0.5)? },
            "credit" => Self::Credit(n.take(0.9)?),
            "local-leap" => Self::LocalLeap { threshold: n.take(0.9)?, relaxed: n.take(0.75)?, radius: n.take(4)? },
            "parallel" => Self::Parallel { max_parallel: n.take(8)?, threshold: n.take(0.3)? },
            _ => {
                return unknown(
                    "acceptance rule",
                    text,
                    "quota, random, threshold:P, factor:F, entropy:NATS, margin:P, hierarchy:P,LOW, credit:P, \
                     local-leap:P,RELAXED,RADIUS, parallel:MOST,P",
                );
            }
        };
        rule.check()?;
        n.end(rule)
    }
}

impl fmt::Display for Acceptance {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Quota(Order::LowConfidence) => write!(f, "quota"),
            Self::Quota(Order::Random) => write!(f, "random"),
            Self::Threshold(t) => write!(f, "threshold:{t}"),
            Self::Factor(x) => write!(f, "factor:{x}"),
            Self::EntropyBound(x) => write!(f, "entropy:{x}"),
            Self::Margin(x) => write!(f, "margin:{x}"),
            Self::Hierarchy { threshold, low } => write!(f, "hierarchy:{threshold},{low}"),
            Self::Credit(t) => write!(f, "credit:{t}"),
            Self::LocalLeap { threshold, relaxed, radius } => write!(f, "local-leap:{threshold},{relaxed},{radius}"),
            Self::Parallel { max_parallel, threshold } => write!(f, "parallel:{max_parallel},{threshold}"),
        }
    }
}

impl FromStr for Cache {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, mut n) = Numbers::of(text);
        let cache = match name {
            "none" => Self::None,
            "prefix" => Self::Prefix,
            "dual" => Self::Dual,
            "delayed" => Self::Delayed { refresh: n.take(8)? },
            "vicinity" => Self::Vicinity { before: n.take(16)?, after: n.take(16)?, warm_up: n.take(4)? },
            _ => return unknown("cache", text, "none, prefix, dual, delayed:REFRESH, vicinity:BEFORE,AFTER,WARM_UP"),
        };
        n.end(cache)
    }
}

impl fmt::Display for Cache {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::None => write!(f, "none"),
            Self::Prefix => write!(f, "prefix"),
            Self::Dual => write!(f, "dual"),
            Self::Delayed { refresh } => write!(f, "delayed:{refresh}"),
            Self::Vicinity { before, after, warm_up } => write!(f, "vicinity:{before},{after},{warm_up}"),
        }
    }
}

impl FromStr for Revision {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, mut n) = Numbers::of(text);
        let revision = match name {
            "verify" => Self::Verify { threshold: n.take(0.6)?, rounds: n.take(1)? },
            "edit" => Self::Edit { threshold: n.take(0.9)?, rounds: n.take(16)? },
            _ => return unknown("revision", text, "verify:P,ROUNDS, edit:P,ROUNDS"),
        };
        n.end(revision)
    }
}

impl FromStr for AdaptiveSteps {
    type Err = Error;

    /// `P,MIN_STEPS,PATIENCE`, each of which may be left out.
    fn from_str(text: &str) -> Result<Self> {
        let list = format!("adaptive steps:{text}");
        let (_, mut n) = Numbers::of(&list);
        let default = Self::default();
        let steps = Self {
            threshold: n.take(default.threshold)?,
            min_steps: n.take(default.min_steps)?,
            patience: n.take(default.patience)?,
        };
        n.end(steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for text in [
            "quota",
            "random",
            "threshold:0.8",
            "factor:1.5",
            "entropy:0.1",
            "margin:0.7",
            "hierarchy:0.9,0.4",
            "credit:0.85",
            "local-leap:0.9,0.7,3",
            "parallel:4,0.5",
        ] {
            assert_eq!(text.parse::<Acceptance>().unwrap().to_string(), text);
        }
        for text in ["none", "prefix", "dual", "delayed:5", "vicinity:1,2,3"] {
            assert_eq!(text.parse::<Cache>().unwrap().to_string(), text);
        }
        assert_eq!("threshold".parse::<Acceptance>().unwrap(), Acceptance::Threshold(0.9));
        assert_eq!("vicinity: 4".parse::<Cache>().unwrap(), Cache::Vicinity { before: 4, after: 16, warm_up: 4 });
        assert_eq!("edit:0.7".parse::<Revision>().unwrap(), Revision::Edit { threshold: 0.7, rounds: 16 });
        let steps = AdaptiveSteps { threshold: 0.9, ..AdaptiveSteps::default() };
        assert_eq!("0.9".parse::<AdaptiveSteps>().unwrap(), steps);
    }

    #[test]
    fn what_cannot_be_is_named() {
        let table = [
            ("thresh:0.5", "there are quota"),
            ("threshold:0.5,3", "a number too many: 3"),
            ("threshold:x", "\"x\" in"),
            ("threshold:1.5", "between 0 and 1"),
            ("parallel:0", "at least 1"),
            ("hierarchy:0.5,0.6", "must not exceed"),
            ("entropy:-1", "0 or more"),
        ];
        for (text, words) in table {
            let message = text.parse::<Acceptance>().unwrap_err().to_string();
            assert!(message.contains(words), "{text}: {message}");
        }
        assert!("dual:3".parse::<Cache>().is_err() && "delayed:-1".parse::<Cache>().is_err());
    }
}
