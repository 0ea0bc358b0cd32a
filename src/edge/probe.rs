//! All that is done about an upgrade request between its last byte and the connect to a server, in one call: for the bench
//! `head` and the fuzz targets, which see no private room. It is not part of the interface.

use crate::edge::client::identity::identify;
use crate::edge::http::client_request::{ClientRequest, Downstream};
use crate::edge::http::head;
use crate::edge::route::hash_key;
use crate::edge::route::router::Router;
use crate::edge::settings::Settings;
use crate::edge::upgrade::access;
use crate::edge::upgrade::server_handshake;
use crate::handshake;
use crate::upstream::settings::HashKey;
use bytes::BytesMut;

/// The routes of a configuration, without servers.
#[derive(Debug)]
pub struct Probe {
    router: Router,
    settings: Settings,
}

impl Probe {
    /// For the routes of these settings.
    pub fn new(settings: Settings) -> Self {
        Probe {
            router: Router::new(&settings.routes),
            settings,
        }
    }

    /// The head that a server gets for this one, which comes from 127.0.0.1.
    ///
    /// # Errors
    /// The sentence that the client gets instead.
    pub fn pass_on(&self, bytes: &[u8]) -> Result<BytesMut, String> {
        if head::end(bytes) != Some(bytes.len()) || !head::may_upgrade(bytes) {
            return Err("no upgrade request".to_owned());
        }
        let client_request = ClientRequest::parse(bytes).map_err(|error| error.to_string())?;
        if !handshake::is_attempt(&client_request) {
            return Err("no upgrade request".to_owned());
        }
        let host = client_request.host().map_err(|error| error.to_string())?;
        let found = self
            .router
            .find(host, client_request.path(), |of| of.hold(&client_request));
        let found = found.map_err(|error| error.to_string())?;
        let route = found.and_then(|found| self.settings.routes.get(found));
        let route = route.ok_or("no route")?;
        let downstream = Downstream {
            peer: Some([127, 0, 0, 1].into()),
            ..Downstream::default()
        };
        let identity = identify(&downstream, &client_request, &self.settings.client);
        let (line, strictness) = (client_request.line(), server_handshake::strictness(route));
        let checked =
            handshake::check_request(&line.method, line.version, &client_request, strictness);
        let mut request = checked.map_err(|refusal| refusal.to_string())?;
        if !handshake::origin::is_allowed(&route.allowed_origins, &client_request) {
            return Err("this origin may not open a WebSocket here".to_owned());
        }
        let offered = request.offer(&client_request, route.compression);
        offered.map_err(|refusal| refusal.to_string())?;
        let wrong = |error: Box<pingora::Error>| error.to_string();
        if let Some(auth) = &route.access.auth {
            access::question(auth, &client_request, &downstream, identity).map_err(wrong)?;
        }
        for key in [
            HashKey::Path,
            HashKey::Cookie("sid".to_owned()),
            HashKey::Query("room".to_owned()),
        ] {
            hash_key::find(&key, &client_request, identity.client.known());
        }
        let auth_headers = Vec::new();
        server_handshake::request(
            &client_request,
            &downstream,
            &request,
            route,
            identity,
            &auth_headers,
            None,
        )
        .map_err(wrong)
    }
}
