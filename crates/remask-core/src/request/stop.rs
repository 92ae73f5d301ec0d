//! Stop strings: looked for in a text that grows.

/// Finds stop strings in a growing text and says what of it can be shown.
///
/// The occurrence that begins first ends the text; it and everything behind it are cut. How the text was cut into
/// pieces makes no difference. Held back is the longest end of the text that may yet turn into a stop string.
#[derive(Debug, Clone, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
    stopped: bool,
}

impl StopStrings {
    /// Looks for these; empty ones are left out, they would be found everywhere.
    #[must_use]
    pub fn new(stops: impl IntoIterator<Item = String>) -> Self {
        let stops = stops.into_iter().filter(|stop| !stop.is_empty()).collect();
        Self { stops, ..Self::default() }
    }

    /// Takes further text, and gives what is certain to come before any stop string.
    #[must_use]
    pub fn push(&mut self, text: &str) -> String {
        if self.stopped {
            return String::new();
        }
        self.held.push_str(text);
        let found = self.first();
        let open = self.open();
        match found {
            // An occurrence that began earlier may still become whole.
            Some(at) if open.is_none_or(|open| open >= at) => self.cut(at),
            Some(at) => self.give(open.unwrap_or(at).min(at)),
            None => self.give(open.unwrap_or(self.held.len())),
        }
    }

    /// The rest of the text, where nothing follows.
    #[must_use]
    pub fn finish(&mut self) -> String {
        match self.first() {
            _ if self.stopped => String::new(),
            Some(at) => self.cut(at),
            None => std::mem::take(&mut self.held),
        }
    }

    /// Whether a stop string ended the text.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Where the first whole stop string begins.
    fn first(&self) -> Option<usize> {
        self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min()
    }

    /// Where the longest end begins that is the beginning of a stop string and not all of it.
    fn open(&self) -> Option<usize> {
        let held = self.held.as_bytes();
        let begins = |tail: &[u8]| self.stops.iter().any(|s| tail.len() < s.len() && s.as_bytes().starts_with(tail));
        let longest = self.stops.iter().map(String::len).max()?.saturating_sub(1);
        (held.len().saturating_sub(longest)..held.len()).find(|at| begins(&held[*at..]))
    }

    fn cut(&mut self, at: usize) -> String {
        self.stopped = true;
        let text = self.give(at);
        self.held.clear();
        text
    }

    fn give(&mut self, until: usize) -> String {
        let rest = self.held.split_off(until);
        std::mem::replace(&mut self.held, rest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stops(stops: &[&str]) -> StopStrings {
        StopStrings::new(stops.iter().map(|s| (*s).to_owned()))
    }

    #[test]
    fn exactly_what_may_turn_into_a_stop_string_is_held() {
        let mut text = stops(&["\n\nUser", "END"]);
        assert_eq!(text.push("one\n"), "one");
        assert_eq!(text.push("two\n\nUs"), "\ntwo");
        assert_eq!(text.push("ual E"), "\n\nUsual ");
        assert_eq!(text.push("N"), "");
        assert_eq!(text.finish(), "EN");
        assert!(!text.stopped());
        let mut text = stops(&["END"]);
        assert_eq!((text.push("so E"), text.push("NDs here")), ("so ".into(), String::new()));
        assert!(text.stopped());
        assert_eq!((text.push("more"), text.finish()), (String::new(), String::new()));
        assert_eq!(stops(&[""]).push("free"), "free");
    }

    #[test]
    fn the_occurrence_that_begins_first_wins() {
        // "bc" is whole before it is known whether "abcd" is.
        let mut text = stops(&["abcd", "bc"]);
        assert_eq!((text.push("xabc"), text.stopped()), ("x".into(), false));
        assert_eq!((text.push("d"), text.stopped()), (String::new(), true));
        let mut text = stops(&["abcd", "bc"]);
        assert_eq!((text.push("xabc"), text.push("e"), text.stopped()), ("x".into(), "a".into(), true));
        let mut text = stops(&["abcd", "bc"]);
        assert_eq!((text.push("xabc"), text.finish(), text.stopped()), ("x".into(), "a".into(), true));
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            pieces in proptest::collection::vec("[abé]{0,4}", 0..12),
            words in proptest::collection::vec("[abé]{1,4}", 0..4),
        ) {
            let whole = pieces.concat();
            let cut = words.iter().filter_map(|w| whole.find(w.as_str())).min();
            let mut text = StopStrings::new(words.iter().cloned());
            let mut given = String::new();
            for piece in &pieces {
                given += &text.push(piece);
                // Never more is held than the beginning of a stop string, or a whole one behind it.
                prop_assert!(text.stopped() || whole.starts_with(&given));
            }
            given += &text.finish();
            prop_assert_eq!(given, &whole[..cut.unwrap_or(whole.len())]);
            prop_assert_eq!(text.stopped(), cut.is_some());
        }
    }
}
