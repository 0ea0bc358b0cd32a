//! The other end of the admin API, for the command line: one request, one answer, nothing kept open.

use crate::transport::address::Address;
use serde_json::Value;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How long the admin listener may take to say anything.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a running wsgate is asked, and with which token.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its admin listener.
    pub address: Address,
    /// The token that it wants, as it stands in the file.
    pub token: Option<String>,
}

trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

impl Client {
    /// Asks, and returns the status and the JSON of the answer (null where it is none).
    ///
    /// # Errors
    /// Where nobody answers, or not in HTTP.
    pub fn ask(&self, method: &str, path: &str, body: &Value) -> io::Result<(u16, Value)> {
        let mut stream = self.connect()?;
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let authorization = match &self.token {
            Some(token) => format!("Authorization: Bearer {}\r\n", token.trim()),
            None => String::new(),
        };
        // Over a Unix socket nobody looks at it.
        let host = match &self.address {
            Address::Unix(_) => "localhost".to_owned(),
            address => address.to_string(),
        };
        let ours = super::guard::HEADER;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\n{authorization}{ours}: 1\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        parse(&answer).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "what answers there is not wsgate",
            )
        })
    }

    fn connect(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match &self.address {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Box::new(stream)
            }
            address => {
                let stream = TcpStream::connect(address.to_string())?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Box::new(stream)
            }
        })
    }
}

fn parse(answer: &[u8]) -> Option<(u16, Value)> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = str::from_utf8(&answer[..end]).ok()?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((
        status,
        serde_json::from_slice(&answer[end + 4..]).unwrap_or(Value::Null),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn answers() {
        let answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 13\r\n\r\n{\"error\":\"x\"}";
        assert_eq!(parse(answer), Some((404, json!({ "error": "x" }))));
        assert_eq!(
            parse(b"HTTP/1.1 204 No Content\r\n\r\n"),
            Some((204, Value::Null))
        );
        for not_http in [
            &b""[..],
            b"SSH-2.0-x\r\n\r\n",
            b"HTTP/1.1 2\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n",
        ] {
            assert_eq!(parse(not_http), None);
        }
    }
}
