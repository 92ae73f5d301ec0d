//! Server-sent events, from pieces that end anywhere.

/// Bytes that an event may have: more than any chunk of an answer, log-probabilities included.
const MOST: usize = 8 << 20;

/// An event, or a line of one, that is longer than any answer's.
#[derive(Debug, thiserror::Error)]
#[error("an event of the stream is longer than {} MiB", MOST >> 20)]
pub struct TooLong;

/// Takes a stream's bytes and gives the data of its events. It holds no more than one event.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    data: Vec<u8>,
    /// A line of data has come, if only an empty one.
    some: bool,
    /// The last byte ended a line by a carriage return: a line feed that follows ends nothing.
    returned: bool,
    /// The first line is behind us; before it a byte order mark may stand.
    begun: bool,
}

impl Parser {
    /// Takes the next bytes; the data of events that end in them goes to `events`.
    ///
    /// # Errors
    /// Where an event is too long.
    pub fn feed(&mut self, bytes: &[u8], events: &mut Vec<String>) -> Result<(), TooLong> {
        let mut rest = bytes;
        if std::mem::take(&mut self.returned) && rest.first() == Some(&b'\n') {
            rest = rest.get(1..).unwrap_or_default();
        }
        while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let (line, ending) = rest.split_at(end);
            self.keep(line)?;
            self.end_line(events)?;
            let two = ending.starts_with(b"\r\n");
            self.returned = ending == b"\r";
            rest = ending.get(if two { 2 } else { 1 }..).unwrap_or_default();
        }
        self.keep(rest)
    }

    /// The data of an event that the stream's end cut off before its empty line.
    ///
    /// # Errors
    /// Where it is too long.
    pub fn finish(&mut self) -> Result<Option<String>, TooLong> {
        let mut events = Vec::new();
        if !self.line.is_empty() {
            self.end_line(&mut events)?;
        }
        self.end_line(&mut events)?;
        Ok(events.pop())
    }

    fn keep(&mut self, part: &[u8]) -> Result<(), TooLong> {
        if self.line.len() + self.data.len() + part.len() > MOST {
            return Err(TooLong);
        }
        self.line.extend_from_slice(part);
        Ok(())
    }

    fn end_line(&mut self, events: &mut Vec<String>) -> Result<(), TooLong> {
        let mut line = std::mem::take(&mut self.line);
        if !std::mem::replace(&mut self.begun, true) && line.starts_with(b"\xef\xbb\xbf") {
            line.drain(..3);
        }
        if line.is_empty() {
            if std::mem::take(&mut self.some) {
                events.push(String::from_utf8_lossy(&std::mem::take(&mut self.data)).into_owned());
            }
            return Ok(());
        }
        // A comment has no name before its colon; names other than this one mean nothing to an answer.
        let value = match line.strip_prefix(b"data") {
            Some([]) => Some(&[][..]),
            Some([b':', b' ', value @ ..] | [b':', value @ ..]) => Some(value),
            _ => None,
        };
        if let Some(value) = value {
            if self.some {
                self.data.push(b'\n');
            }
            self.some = true;
            self.data.extend_from_slice(value);
        }
        // The line's memory serves the next one.
        line.clear();
        self.line = line;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
        let (mut parser, mut events) = (Parser::default(), Vec::new());
        pieces.into_iter().for_each(|piece| parser.feed(piece, &mut events).unwrap());
        events.extend(parser.finish().unwrap());
        events
    }

    #[test]
    fn comments_and_other_fields_are_passed_over() {
        let text =
            "\u{feff}: ping\n\nevent: x\ndata: {\"a\": 1}\nid: 3\n\n: more\r\n\r\ndata:one\rdata\rdata:  two\r\r";
        assert_eq!(parsed([text.as_bytes()]), ["{\"a\": 1}", "one\n\n two"]);
        assert_eq!(parsed([&b"datas: no\n\ndatum\n\n"[..]]), Vec::<String>::new());
    }

    #[test]
    fn the_last_event_needs_no_empty_line() {
        assert_eq!(parsed([&b"data: a\n\ndata: [DONE]"[..]]), ["a", "[DONE]"]);
        assert_eq!(parsed([&b"data: [DONE]\n"[..]]), ["[DONE]"]);
    }

    #[test]
    fn what_never_ends_is_an_error() {
        let (mut parser, mut events) = (Parser::default(), Vec::new());
        let piece = vec![b'x'; 1 << 20];
        let fed = (0..9).map(|_| parser.feed(&piece, &mut events)).find(Result::is_err);
        assert!(fed.is_some() && parser.line.len() <= MOST);
        let (mut parser, line) = (Parser::default(), [b"data: ".as_slice(), &piece, b"\n"].concat());
        let fed = (0..9).map(|_| parser.feed(&line, &mut events)).find(Result::is_err);
        assert!(fed.is_some() && events.is_empty());
    }

    proptest! {
        /// However a stream is cut, its events are the same.
        #[test]
        fn pieces_may_end_anywhere(
            texts in prop::collection::vec("[a-zé€😀 :]{0,12}", 1..8),
            ends in prop::collection::vec(0usize..3, 8),
            cuts in prop::collection::vec(0usize..400, 0..40),
        ) {
            let mut bytes = Vec::new();
            for (text, end) in texts.iter().zip(&ends) {
                let end = ["\n", "\r", "\r\n"][*end];
                bytes.extend(format!(": ping{end}{end}data: {text}{end}{end}").into_bytes());
            }
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.sort_unstable();
            cuts.push(bytes.len());
            let mut from = 0;
            let pieces: Vec<_> = cuts.iter().map(|to| &bytes[std::mem::replace(&mut from, *to)..*to]).collect();
            prop_assert_eq!(parsed(pieces), texts);
        }
    }
}
