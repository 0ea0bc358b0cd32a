//! Pingora's traits for a wrapper of a stream: the stream inside answers.

/// Implements Pingora's traits about the identity of a connection (`UniqueID`, `Peek` and the three digests) for a wrapper:
/// the stream inside, given by an expression over `self`, answers.
macro_rules! delegate_identity {
    ($wrapper:ty, $this:ident => $inner:expr) => {
        impl pingora::protocols::UniqueID for $wrapper {
            fn id(&self) -> pingora::protocols::UniqueIDType {
                let $this = self;
                $inner.id()
            }
        }

        impl pingora::protocols::Peek for $wrapper {}

        impl pingora::protocols::GetTimingDigest for $wrapper {
            fn get_timing_digest(&self) -> Vec<Option<pingora::protocols::TimingDigest>> {
                let $this = self;
                $inner.get_timing_digest()
            }
        }

        impl pingora::protocols::GetProxyDigest for $wrapper {
            fn get_proxy_digest(
                &self,
            ) -> Option<std::sync::Arc<pingora::protocols::raw_connect::ProxyDigest>> {
                let $this = self;
                $inner.get_proxy_digest()
            }
        }

        impl pingora::protocols::GetSocketDigest for $wrapper {
            fn get_socket_digest(
                &self,
            ) -> Option<std::sync::Arc<pingora::protocols::SocketDigest>> {
                let $this = self;
                $inner.get_socket_digest()
            }
        }
    };
}

/// Implements Pingora's trait about TLS (`Ssl`) for a wrapper: the stream inside answers.
macro_rules! delegate_tls {
    ($wrapper:ty, $this:ident => $inner:expr) => {
        impl pingora::protocols::Ssl for $wrapper {
            fn get_ssl_digest(&self) -> Option<std::sync::Arc<pingora::protocols::tls::SslDigest>> {
                let $this = self;
                $inner.get_ssl_digest()
            }

            fn selected_alpn_proto(&self) -> Option<pingora::protocols::ALPN> {
                let $this = self;
                $inner.selected_alpn_proto()
            }
        }
    };
}

pub(crate) use {delegate_identity, delegate_tls};
