//! The values of labels that no other room declares. Each label has a fixed set of values, so that every series exists, with zero,
//! before the first event.

/// An enum of unit variants with a label each: `ALL` holds the variants in the order of their declaration.
macro_rules! labelled {
    ($(#[$meta:meta])* $visible:vis $name:ident { $($(#[$about:meta])* $variant:ident = $label:literal,)+ }) => {
        crate::with_all! {
            $(#[$meta])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
            $visible enum $name {
                $($(#[$about])* $variant,)+
            }
        }

        impl $name {
            /// Its name in metrics and in the log.
            $visible const fn label(self) -> &'static str {
                match self {
                    $($name::$variant => $label,)+
                }
            }
        }
    };
}
pub(super) use labelled;

labelled! {
    /// Why a connection of a client ended before it came to a request.
    pub ConnectionRefusal {
        /// `max_connections` of the clients.
        MaxConnections = "max_connections",
        /// `address_max_connections`.
        AddressMaxConnections = "address_max_connections",
        /// `address_rate`.
        AddressRate = "address_rate",
        /// TLS, on a listener without it.
        TlsOnClearPort = "tls_on_clear_port",
        /// HTTP/2 that no ALPN has agreed on.
        Http2WithoutAlpn = "http2_without_alpn",
        /// A header of the PROXY protocol, on a listener without `proxy_protocol`.
        UnexpectedProxyHeader = "unexpected_proxy_header",
        /// HTTP, on a listener with TLS.
        HttpOnTlsPort = "http_on_tls_port",
        /// Something else than HTTP.
        NotHttp = "not_http",
    }
}

labelled! {
    /// Why a connection ended for want of a good header of the PROXY protocol.
    pub ProxyHeaderFailure {
        /// The peer is none of `trusted_proxies`.
        Untrusted = "untrusted",
        /// The bytes are no header.
        Malformed = "malformed",
        /// The header was not complete within `header_timeout`.
        TimedOut = "timed_out",
        /// The connection ended within the header.
        Ended = "ended",
    }
}

labelled! {
    /// A resource of the system that a connection needs.
    pub Resource {
        /// File descriptors.
        FileDescriptors = "file_descriptors",
        /// Memory of the kernel.
        Memory = "memory",
        /// Local ports toward a server's address.
        LocalPorts = "local_ports",
        /// An address of `source` that the machine does not have.
        Source = "source",
    }
}

labelled! {
    /// A limit that the client of a plain request, or of a connection of HTTP/2, did not keep.
    pub PlainLimit {
        /// `body_timeout` or `min_rate`, for the body of the request.
        BodyTimeout = "body_timeout",
        /// `write_timeout` or `min_rate`, for the response.
        WriteTimeout = "write_timeout",
        /// `buffer_memory`.
        BufferMemory = "buffer_memory",
        /// The streams of HTTP/2 that a client may reset.
        Resets = "resets",
    }
}

labelled! {
    /// The class of the status of a response to a plain request.
    pub(super) StatusClass {
        /// 200 to 299.
        Successful = "2xx",
        /// 300 to 399.
        Redirection = "3xx",
        /// 400 to 499.
        ClientError = "4xx",
        /// 500 to 599.
        ServerError = "5xx",
        /// The request ended before a response was sent.
        None = "none",
    }
}

impl StatusClass {
    /// The class of a final status; statuses of 600 and more, which no RFC defines, count as those of 500 to 599 (RFC 9110 §15).
    pub(super) const fn of(status: Option<u16>) -> Self {
        match status {
            None | Some(..200) => StatusClass::None,
            Some(200..=299) => StatusClass::Successful,
            Some(300..=399) => StatusClass::Redirection,
            Some(400..=499) => StatusClass::ClientError,
            Some(500..) => StatusClass::ServerError,
        }
    }
}
