//! Pingora's errors in words: its own text is made of the names of its enums, `Upstream ConnectionClosed context: ...`.

use pingora::{Error, ErrorType};

/// The text of an error, from the outermost to the root cause.
pub(crate) fn words(error: &Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let kind = kind(&error.etype).map(str::to_owned);
        let context = error.context.as_ref().map(|text| excerpt(text.as_str()));
        for part in kind.into_iter().chain(context) {
            if !part.is_empty() && parts.last() != Some(&part) {
                parts.push(part);
            }
        }
        let cause = error.cause.as_deref();
        next = cause.and_then(|cause| cause.downcast_ref::<Box<Error>>().map(|inner| &**inner));
        if let (None, Some(cause)) = (next, cause) {
            parts.push(cause.to_string());
        }
    }
    if parts.is_empty() {
        return "it failed inside".to_owned();
    }
    parts.join(": ")
}

/// Pingora puts the whole of a head that it cannot read, up to 1 MiB, behind this.
const HEAD: &str = "buf: ";

/// Most characters of such a head, and of anything else that is said.
const MOST: (usize, usize) = (60, 300);

fn excerpt(context: &str) -> String {
    let (start, text, most) = match context.strip_prefix(HEAD) {
        Some(head) => ("it begins with ", head, MOST.0),
        None => ("", context, MOST.1),
    };
    let shown: String = text.chars().take(most).collect();
    let end = if shown.len() < text.len() { "..." } else { "" };
    format!("{start}{shown}{end}")
}

/// `None`: what is said beside it says more.
fn kind(kind: &ErrorType) -> Option<&'static str> {
    Some(match kind {
        ErrorType::ConnectTimedout => "the connection was not made in time",
        ErrorType::ConnectRefused => "the connection was refused",
        ErrorType::ConnectNoRoute => "there is no way to the address",
        ErrorType::ConnectError => "no connection can be made",
        ErrorType::ReadTimedout => "nothing came in time",
        ErrorType::WriteTimedout => "nothing was taken in time",
        ErrorType::ReadError => "reading failed",
        ErrorType::WriteError => "writing failed",
        ErrorType::ConnectionClosed => "the connection ended",
        ErrorType::InvalidHTTPHeader => "what came is not HTTP as it has to be",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn the_chain_is_told_without_names_of_code() {
        let closed = Error::explain(ErrorType::ConnectionClosed, "after 0 bytes of an answer");
        assert_eq!(
            words(&closed),
            "the connection ended: after 0 bytes of an answer"
        );
        let reset = io::Error::other("it was reset");
        let read = Error::because(ErrorType::ReadError, "the answer", reset);
        assert_eq!(words(&read), "reading failed: the answer: it was reset");
        let outer = Error::because(ErrorType::InternalError, "", read);
        assert_eq!(words(&outer), "reading failed: the answer: it was reset");
        assert_eq!(
            words(&Error::new(ErrorType::UnknownError)),
            "it failed inside"
        );
    }
}
