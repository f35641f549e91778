//! Server-sent events, written (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).

use std::borrow::Cow;

use axum::body::Bytes;

/// A comment, which keeps connections alive.
pub(super) const COMMENT: Bytes = Bytes::from_static(b": keep-alive\n\n");

/// One event. `data` has no carriage returns.
pub(super) fn event(name: &str, id: &str, data: &str) -> Bytes {
    let mut event = format!("event: {name}\nid: {id}\n");
    for line in data.split('\n') {
        event.extend(["data: ", line, "\n"]);
    }
    event.push('\n');
    event.into()
}

/// The text with every line end as LF, which is all that an event's data can say. `after_return`: whether the text before it
/// ended in a carriage return, so that a line feed at its beginning ends no other line.
pub(super) fn with_line_feeds(text: &str, after_return: bool) -> Cow<'_, str> {
    let text = if after_return { text.strip_prefix('\n').unwrap_or(text) } else { text };
    if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n").into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_has_as_many_lines_as_the_text() {
        assert_eq!(event("output", "1:2:3", "a"), "event: output\nid: 1:2:3\ndata: a\n\n");
        assert_eq!(
            event("output", "1:2:3", " a\n\nb\n"),
            "event: output\nid: 1:2:3\ndata:  a\ndata: \ndata: b\ndata: \n\n"
        );
    }

    #[test]
    fn line_ends_are_told_once_however_pieces_are_cut() {
        let text = "a\r\nb\rc\n\r\n\r\r\nd";
        let whole = with_line_feeds(text, false).into_owned();
        assert_eq!(whole, "a\nb\nc\n\n\n\nd");
        for cut in 0..=text.len() {
            let (first, second) = text.split_at(cut);
            let second = with_line_feeds(second, first.ends_with('\r'));
            assert_eq!([with_line_feeds(first, false), second].concat(), whole, "{cut}");
        }
    }
}
