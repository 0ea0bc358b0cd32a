//! The negotiation of permessage-deflate, RFC 7692 §5 and §7.1, as one that stands between client and server.
//!
//! The client's offers go on, less those that a server has to decline anyway and with what the operator asks for; no
//! other extension does, because wsgate cannot know what it does to frames. The server's answer is held against
//! what it was offered, and goes on with what only the client can be asked for.

use super::{
    InvalidUpgradeResponse, MAX_EXTENSION_PARAMETERS, MAX_EXTENSIONS, Refusal, is_token_byte,
};
use crate::frame::deflate::DeflateParams;
use std::fmt;

/// The setting of a route about compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// No offer goes on: messages are never compressed.
    Off,
    /// Offers go on, and compressed messages are inflated to be inspected.
    Inspect {
        /// Whether messages may refer back to those before them, which makes them smaller and costs a window each way.
        context_takeover: bool,
        /// The largest window that is agreed to, 9 to 15: two to the power of this, in bytes.
        max_window_bits: u8,
    },
}

impl Default for Compression {
    fn default() -> Self {
        Compression::Inspect {
            context_takeover: true,
            max_window_bits: 15,
        }
    }
}

/// The parameters that both sides agreed to, by the side that compresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deflate {
    /// The parameters for messages of the client.
    pub client: DeflateParams,
    /// The parameters for messages of the server.
    pub server: DeflateParams,
}

/// The parameters of one offer or answer (§7.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Parameters {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    server_max_window_bits: Option<u8>,
    /// The inner one is `None` where the parameter has no value.
    client_max_window_bits: Option<Option<u8>>,
}

const NAME: &str = "permessage-deflate";
const LARGEST: u8 = 15;

/// The offers of a client that go on, by its `Sec-WebSocket-Extensions`.
///
/// # Errors
/// RFC 6455 §9.1: a header that is not what its grammar says fails the handshake.
pub(super) fn offers<'a>(
    lines: impl Iterator<Item = &'a [u8]>,
    compression: Compression,
) -> Result<Vec<Parameters>, Refusal> {
    let Compression::Inspect {
        context_takeover,
        max_window_bits,
    } = compression
    else {
        return Ok(Vec::new());
    };
    let mut offers = Vec::new();
    for extension in extensions(lines)? {
        if !extension.name.eq_ignore_ascii_case(NAME) {
            continue;
        }
        // §7.1: a server declines an offer with parameters that are unknown, wrong, or there twice.
        let Some(mut offer) = extension.parameters(true) else {
            continue;
        };
        if !context_takeover {
            // §7.1.1.1: the server has to agree to it or to decline. §7.1.1.2: a hint, and true, because the answer that
            // the client gets demands it.
            offer.server_no_context_takeover = true;
            offer.client_no_context_takeover = true;
        }
        if max_window_bits < LARGEST {
            let smaller = |bits: u8| bits.min(max_window_bits);
            // §7.1.2.1: the server has to agree to it or to decline.
            let bits = offer.server_max_window_bits.unwrap_or(LARGEST);
            offer.server_max_window_bits = Some(smaller(bits));
            // §7.1.2.2: only a client that offers it knows how to use less.
            offer.client_max_window_bits = offer
                .client_max_window_bits
                .map(|bits| Some(smaller(bits.unwrap_or(LARGEST))));
        }
        if !offers.contains(&offer) {
            offers.push(offer);
        }
    }
    Ok(offers)
}

/// Reads a server's answer about compression. The client gets the same answer, limited to what it offered.
///
/// # Errors
/// The answer is one that no offer allows.
pub(super) fn answer<'a>(
    lines: impl Iterator<Item = &'a [u8]>,
    offers: &[Parameters],
) -> Result<Option<Parameters>, InvalidUpgradeResponse> {
    let extensions = extensions(lines).map_err(|_| InvalidUpgradeResponse::Extension)?;
    let extension = match extensions.as_slice() {
        [] => return Ok(None),
        [extension] if extension.name.eq_ignore_ascii_case(NAME) && !offers.is_empty() => extension,
        // §4.1 of RFC 6455: an extension that was not offered; RFC 7692 §5: one answer to all offers.
        [_, ..] => return Err(InvalidUpgradeResponse::Extension),
    };
    let answer = extension
        .parameters(false)
        .ok_or(InvalidUpgradeResponse::ExtensionParameters)?;
    let offer = offers
        .iter()
        .find(|offer| offer.allows(&answer))
        .ok_or(InvalidUpgradeResponse::ExtensionParameters)?;
    Ok(Some(Parameters {
        // §7.1.1.2: an answer may demand this of every client.
        client_no_context_takeover: answer.client_no_context_takeover
            || offer.client_no_context_takeover,
        // §7.1.2.2: and this of one that has offered it. One that named a size uses no more in any case.
        client_max_window_bits: answer
            .client_max_window_bits
            .or(offer.client_max_window_bits.filter(Option::is_some)),
        ..answer
    }))
}

impl Parameters {
    /// Whether this offer may be answered so.
    fn allows(&self, answer: &Parameters) -> bool {
        // §7.1.1.1: a server that accepts the offer says so.
        let server_takeover = !self.server_no_context_takeover || answer.server_no_context_takeover;
        // §7.1.2.1: "with the same or smaller value as the offer"; without an offer a server may do as it likes.
        let server_window = match (self.server_max_window_bits, answer.server_max_window_bits) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(offered), Some(answered)) => answered <= offered,
        };
        // §7.1.2.2: not in an answer to an offer without it.
        let client_window = match (self.client_max_window_bits, answer.client_max_window_bits) {
            (_, None) | (Some(None), Some(_)) => true,
            (None, Some(_)) => false,
            (Some(Some(offered)), Some(answered)) => answered.is_none_or(|bits| bits <= offered),
        };
        server_takeover && server_window && client_window
    }

    pub(super) fn agreed(&self) -> Deflate {
        Deflate {
            client: DeflateParams {
                takeover: !self.client_no_context_takeover,
                window_bits: self.client_max_window_bits.flatten().unwrap_or(LARGEST),
            },
            server: DeflateParams {
                takeover: !self.server_no_context_takeover,
                window_bits: self.server_max_window_bits.unwrap_or(LARGEST),
            },
        }
    }
}

impl fmt::Display for Parameters {
    /// As it stands in a header.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAME)?;
        if self.server_no_context_takeover {
            f.write_str("; server_no_context_takeover")?;
        }
        if self.client_no_context_takeover {
            f.write_str("; client_no_context_takeover")?;
        }
        if let Some(bits) = self.server_max_window_bits {
            write!(f, "; server_max_window_bits={bits}")?;
        }
        match self.client_max_window_bits {
            None => Ok(()),
            Some(None) => f.write_str("; client_max_window_bits"),
            Some(Some(bits)) => write!(f, "; client_max_window_bits={bits}"),
        }
    }
}

/// One element of `Sec-WebSocket-Extensions`.
struct Extension {
    name: String,
    parameters: Vec<(String, Option<String>)>,
}

impl Extension {
    /// `None` where they are not those of an offer or an answer: unknown, there twice, or with a wrong value (§7.1).
    fn parameters(&self, offer: bool) -> Option<Parameters> {
        let mut read = Parameters::default();
        for (at, (name, value)) in self.parameters.iter().enumerate() {
            if self.parameters[..at].iter().any(|(other, _)| other == name) {
                return None;
            }
            match (name.as_str(), value.as_deref()) {
                ("server_no_context_takeover", None) => read.server_no_context_takeover = true,
                ("client_no_context_takeover", None) => read.client_no_context_takeover = true,
                ("server_max_window_bits", Some(bits)) => {
                    read.server_max_window_bits = Some(window_bits(bits)?);
                }
                // §7.1.2.2: without a value in an offer only.
                ("client_max_window_bits", None) if offer => {
                    read.client_max_window_bits = Some(None);
                }
                ("client_max_window_bits", Some(bits)) => {
                    read.client_max_window_bits = Some(Some(window_bits(bits)?));
                }
                (_, _) => return None,
            }
        }
        Some(read)
    }
}

/// §7.1.2: "a decimal integer value without leading zeroes between 8 to 15, inclusive".
fn window_bits(text: &str) -> Option<u8> {
    let bits: u8 = text.parse().ok()?;
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    (plain && (8..=LARGEST).contains(&bits)).then_some(bits)
}

/// All elements over all lines. Empty ones are left out.
///
/// # Errors
/// One is not what RFC 6455 §9.1 says, or there are too many.
fn extensions<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Result<Vec<Extension>, Refusal> {
    let mut extensions = Vec::new();
    for line in lines {
        let mut rest = line.trim_ascii_start();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix(b",") {
                rest = after.trim_ascii_start();
                continue;
            }
            if extensions.len() >= MAX_EXTENSIONS {
                return Err(Refusal::TooManyExtensions);
            }
            extensions.push(extension(&mut rest)?);
            if !rest.is_empty() && !rest.starts_with(b",") {
                return Err(Refusal::Extensions);
            }
        }
    }
    Ok(extensions)
}

/// Takes one element and the white space behind it.
fn extension(rest: &mut &[u8]) -> Result<Extension, Refusal> {
    let name = token(rest).ok_or(Refusal::Extensions)?;
    let mut parameters = Vec::new();
    while let Some(after) = rest.strip_prefix(b";") {
        if parameters.len() >= MAX_EXTENSION_PARAMETERS {
            return Err(Refusal::TooManyParameters);
        }
        *rest = after.trim_ascii_start();
        let name = token(rest).ok_or(Refusal::Extensions)?;
        let value = match rest.strip_prefix(b"=") {
            None => None,
            Some(after) => {
                *rest = after.trim_ascii_start();
                Some(value(rest).ok_or(Refusal::Extensions)?)
            }
        };
        parameters.push((name.to_ascii_lowercase(), value));
    }
    Ok(Extension { name, parameters })
}

/// Takes a token and the white space behind it.
fn token(rest: &mut &[u8]) -> Option<String> {
    let len = rest
        .iter()
        .position(|byte| !is_token_byte(*byte))
        .unwrap_or(rest.len());
    let (token, after) = rest.split_at_checked(len).filter(|_| len > 0)?;
    *rest = after.trim_ascii_start();
    String::from_utf8(token.to_vec()).ok()
}

/// Takes a token, or a quoted string: "the value after quoted-string unescaping MUST conform to the 'token' ABNF".
fn value(rest: &mut &[u8]) -> Option<String> {
    let Some(mut quoted) = rest.strip_prefix(b"\"") else {
        return token(rest);
    };
    let mut value = Vec::new();
    loop {
        let (byte, after) = quoted.split_first()?;
        quoted = after;
        match byte {
            b'"' => break,
            b'\\' => {
                let (escaped, after) = quoted.split_first()?;
                quoted = after;
                value.push(*escaped);
            }
            byte => value.push(*byte),
        }
    }
    *rest = quoted.trim_ascii_start();
    let is_token = !value.is_empty() && value.iter().all(|byte| is_token_byte(*byte));
    String::from_utf8(value).ok().filter(|_| is_token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inspect(context_takeover: bool, max_window_bits: u8) -> Compression {
        Compression::Inspect {
            context_takeover,
            max_window_bits,
        }
    }

    fn offered(lines: &[&str], compression: Compression) -> Result<String, Refusal> {
        let lines = lines.iter().map(|line| line.as_bytes());
        let offers = offers(lines, compression)?;
        Ok(offers
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", "))
    }

    #[test]
    fn section_7_1_offers_as_they_go_on() {
        for (lines, goes_on) in [
            (&[][..], ""),
            (&[""], ""),
            (&[" , ,"], ""),
            (&["permessage-deflate"], "permessage-deflate"),
            (
                &["PerMessage-Deflate ; Client_Max_Window_Bits"],
                "permessage-deflate; client_max_window_bits",
            ),
            (
                &[
                    "permessage-deflate; client_max_window_bits; server_max_window_bits=10, permessage-deflate",
                ],
                "permessage-deflate; server_max_window_bits=10; client_max_window_bits, permessage-deflate",
            ),
            (
                &[
                    "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=8; client_max_window_bits=15",
                ],
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=8; client_max_window_bits=15",
            ),
            // A quoted value.
            (
                &["permessage-deflate; server_max_window_bits=\"1\\2\""],
                "permessage-deflate; server_max_window_bits=12",
            ),
            // Over two lines, and with others, which do not go on.
            (
                &[
                    "x-webkit-deflate-frame, bbf-usp-protocol; a=\"b,c;d\"x",
                    "permessage-deflate",
                ],
                "refused",
            ),
            (
                &["x-one; a=b; c, permessage-deflate", "x-two"],
                "permessage-deflate",
            ),
            // Those that have to be declined.
            (&["permessage-deflate; unknown"], ""),
            (&["permessage-deflate; server_max_window_bits"], ""),
            (&["permessage-deflate; server_max_window_bits=7"], ""),
            (&["permessage-deflate; server_max_window_bits=16"], ""),
            (&["permessage-deflate; server_max_window_bits=010"], ""),
            (&["permessage-deflate; server_max_window_bits=+10"], ""),
            (&["permessage-deflate; client_max_window_bits=x"], ""),
            (&["permessage-deflate; server_no_context_takeover=1"], ""),
            (
                &["permessage-deflate; client_no_context_takeover; client_no_context_takeover"],
                "",
            ),
            (
                &["permessage-deflate; client_max_window_bits; client_max_window_bits=10"],
                "",
            ),
            (
                &["permessage-deflate; client_max_window_bits=9; x, permessage-deflate"],
                "permessage-deflate",
            ),
            // What is no list of extensions.
            (&["permessage-deflate;"], "refused"),
            (&["permessage-deflate; a="], "refused"),
            (&["permessage-deflate; a=\"\""], "refused"),
            (&["permessage-deflate; a=\"b"], "refused"),
            (&["permessage-deflate; a=\"b\\"], "refused"),
            (&["permessage-deflate; a=\"b c\""], "refused"),
            (&["permessage-deflate x"], "refused"),
            (&["permessage-deflate=1"], "refused"),
            (&["; a"], "refused"),
            (&["@"], "refused"),
        ] {
            let on = offered(lines, Compression::default());
            assert_eq!(
                on.unwrap_or_else(|_| "refused".into()),
                goes_on,
                "{lines:?}"
            );
            assert_eq!(offered(lines, Compression::Off).as_deref(), Ok(""));
        }
    }

    #[test]
    fn what_the_operator_asks_for_is_added() {
        for (offer, compression, goes_on) in [
            (
                "permessage-deflate",
                inspect(false, 15),
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            ),
            (
                "permessage-deflate",
                inspect(true, 10),
                "permessage-deflate; server_max_window_bits=10",
            ),
            (
                "permessage-deflate; client_max_window_bits",
                inspect(true, 10),
                "permessage-deflate; server_max_window_bits=10; client_max_window_bits=10",
            ),
            (
                "permessage-deflate; client_max_window_bits=9; server_max_window_bits=12",
                inspect(false, 10),
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=10; client_max_window_bits=9",
            ),
            // Two that are the same then.
            (
                "permessage-deflate; server_no_context_takeover, permessage-deflate",
                inspect(false, 15),
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            ),
        ] {
            assert_eq!(offered(&[offer], compression).as_deref(), Ok(goes_on));
        }
    }

    /// `Ok`: what the client is told; it is what was agreed.
    fn answered(
        offer: &str,
        compression: Compression,
        answers: &[&str],
    ) -> Result<String, InvalidUpgradeResponse> {
        let offers = offers([offer.as_bytes()].into_iter(), compression).unwrap();
        let lines = answers.iter().map(|line| line.as_bytes());
        Ok(answer(lines, &offers)?.map_or_else(String::new, |told| told.to_string()))
    }

    #[test]
    fn section_7_1_answers_are_held_against_the_offers() {
        const PMD: &str = "permessage-deflate";
        const ALL: &str = "permessage-deflate; client_max_window_bits";
        let (extension, parameters) = (
            InvalidUpgradeResponse::Extension,
            InvalidUpgradeResponse::ExtensionParameters,
        );
        let of = |parameters: &str| format!("{PMD}; {parameters}");
        for (offer, answer, told) in [
            (PMD.to_owned(), String::new(), Ok(String::new())),
            (PMD.into(), PMD.into(), Ok(PMD.into())),
            // Not offered at all.
            (String::new(), PMD.into(), Err(&extension)),
            ("x-other".into(), PMD.into(), Err(&extension)),
            (PMD.into(), "x-other".into(), Err(&extension)),
            (PMD.into(), format!("{PMD}, x-other"), Err(&extension)),
            (PMD.into(), format!("{PMD}, {PMD}"), Err(&extension)),
            (PMD.into(), format!("{PMD};"), Err(&extension)),
            // What a server may say of its own accord.
            (
                PMD.into(),
                of("server_no_context_takeover"),
                Ok(of("server_no_context_takeover")),
            ),
            (
                PMD.into(),
                of("client_no_context_takeover"),
                Ok(of("client_no_context_takeover")),
            ),
            (
                PMD.into(),
                of("server_max_window_bits=9"),
                Ok(of("server_max_window_bits=9")),
            ),
            (
                ALL.into(),
                of("client_max_window_bits=9"),
                Ok(of("client_max_window_bits=9")),
            ),
            (ALL.into(), PMD.into(), Ok(PMD.into())),
            // What it may not.
            (
                PMD.into(),
                of("client_max_window_bits=15"),
                Err(&parameters),
            ),
            (PMD.into(), of("unknown"), Err(&parameters)),
            (
                PMD.into(),
                of("server_no_context_takeover; server_no_context_takeover"),
                Err(&parameters),
            ),
            (PMD.into(), of("server_max_window_bits=7"), Err(&parameters)),
            (PMD.into(), of("server_max_window_bits"), Err(&parameters)),
            (ALL.into(), of("client_max_window_bits"), Err(&parameters)),
            // What it has to take up.
            (
                of("server_no_context_takeover"),
                PMD.into(),
                Err(&parameters),
            ),
            (
                of("server_max_window_bits=10"),
                PMD.into(),
                Err(&parameters),
            ),
            (
                of("server_max_window_bits=10"),
                of("server_max_window_bits=11"),
                Err(&parameters),
            ),
            (
                of("server_max_window_bits=10"),
                of("server_max_window_bits=10"),
                Ok(of("server_max_window_bits=10")),
            ),
            (
                of("server_max_window_bits=10"),
                of("server_max_window_bits=8"),
                Ok(of("server_max_window_bits=8")),
            ),
            (
                of("client_max_window_bits=10"),
                of("client_max_window_bits=11"),
                Err(&parameters),
            ),
            (
                of("client_max_window_bits=10"),
                of("client_max_window_bits=9"),
                Ok(of("client_max_window_bits=9")),
            ),
            // A client that named a size keeps to it, whether the server says so or not.
            (
                of("client_max_window_bits=10"),
                PMD.into(),
                Ok(of("client_max_window_bits=10")),
            ),
            (
                of("client_no_context_takeover"),
                PMD.into(),
                Ok(of("client_no_context_takeover")),
            ),
            // The answer to any of the offers.
            (
                format!("{}, {PMD}", of("server_max_window_bits=10")),
                PMD.into(),
                Ok(PMD.into()),
            ),
        ] {
            let got = answered(&offer, Compression::default(), &[&answer]);
            assert_eq!(
                got.as_ref(),
                told.as_ref().map_err(|bad| *bad),
                "{offer} / {answer}"
            );
        }
        let two_lines = answered(PMD, Compression::default(), &[PMD, PMD]);
        assert_eq!(two_lines, Err(extension));
    }

    #[test]
    fn the_client_is_told_what_only_it_can_do() {
        for (compression, offer, answer, told, agreed) in [
            (
                inspect(false, 10),
                "permessage-deflate; client_max_window_bits",
                "permessage-deflate; server_no_context_takeover; server_max_window_bits=10",
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=10; client_max_window_bits=10",
                [(false, 10), (false, 10)],
            ),
            // A client that cannot use less.
            (
                inspect(true, 10),
                "permessage-deflate",
                "permessage-deflate; server_max_window_bits=9",
                "permessage-deflate; server_max_window_bits=9",
                [(true, 15), (true, 9)],
            ),
        ] {
            let offers = offers([offer.as_bytes()].into_iter(), compression).unwrap();
            let read = super::answer([answer.as_bytes()].into_iter(), &offers);
            let read = read.unwrap().unwrap();
            assert_eq!(read.to_string(), told);
            let Deflate { client, server } = read.agreed();
            let terms = [client, server].map(|terms| (terms.takeover, terms.window_bits));
            assert_eq!(terms, agreed);
        }
    }
}
