//! Which requests are answered.

/// Headers of every answer: nothing is loaded from, sent to or shown in another place, and nothing is kept.
pub(super) const HEADERS: [(&str, &str); 6] = [
    (
        "Content-Security-Policy",
        "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
];

/// A request that gets nothing, with the status that it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal(pub(super) u16);

/// What a request must name.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    pub(super) token: String,
    pub(super) port: u16,
}

impl Guard {
    /// The part of the address behind the token; `headers` have names in small letters.
    pub(super) fn place<'a>(
        &self,
        url: &'a str,
        headers: &[(String, String)],
    ) -> Result<&'a str, Refusal> {
        let mut hosts = values(headers, "host");
        // A page elsewhere whose name leads here names itself.
        let host = hosts.next().filter(|_| hosts.next().is_none());
        if !host.is_some_and(|host| self.names().contains(&host.to_owned())) {
            return Err(Refusal(421));
        }
        let own = self.names().map(|name| format!("http://{name}"));
        if values(headers, "origin").any(|origin| !own.contains(&origin.to_owned())) {
            return Err(Refusal(403));
        }
        let rest = url.strip_prefix('/').unwrap_or(url);
        let (token, rest) = rest.split_once('/').ok_or(Refusal(404))?;
        if !same(token, &self.token) {
            return Err(Refusal(404));
        }
        Ok(rest.split(['?', '#']).next().unwrap_or(rest))
    }

    /// Refuses what a form of another page could send.
    pub(super) fn check_post(headers: &[(String, String)]) -> Result<(), Refusal> {
        let json = values(headers, "content-type").all(|kind| kind.starts_with("application/json"));
        let typed = values(headers, "content-type").next().is_some();
        let from_here = values(headers, "sec-fetch-site").all(|site| site == "same-origin");
        if typed && json && from_here { Ok(()) } else { Err(Refusal(403)) }
    }

    fn names(&self) -> [String; 2] {
        let port = self.port;
        [format!("127.0.0.1:{port}"), format!("localhost:{port}")]
    }
}

fn values<'a>(headers: &'a [(String, String)], name: &str) -> impl Iterator<Item = &'a str> {
    let name = name.to_owned();
    headers.iter().filter(move |(own, _)| *own == name).map(|(_, value)| value.as_str())
}

/// Whether two texts are the same, found out in a time that depends on their lengths alone.
fn same(a: &str, b: &str) -> bool {
    let differing = a.bytes().zip(b.bytes()).fold(0, |all, (a, b)| all | (a ^ b));
    a.len() == b.len() && differing == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn strangers_get_nothing() {
        let guard = Guard { token: "abc123".into(), port: 4000 };
        let host = ("host", "127.0.0.1:4000");
        let place = |url: &'static str, list: &[(&str, &str)]| guard.place(url, &headers(list));
        assert_eq!(place("/abc123/", &[host]), Ok(""));
        assert_eq!(place("/abc123/state?x=1", &[("host", "localhost:4000")]), Ok("state"));
        let own = ("origin", "http://127.0.0.1:4000");
        assert_eq!(place("/abc123/state", &[host, own]), Ok("state"));
        for (url, list, code) in [
            ("/abc123/", vec![], 421),
            ("/abc123/", vec![("host", "evil.example:4000")], 421),
            ("/abc123/", vec![("host", "127.0.0.1:4001")], 421),
            ("/abc123/", vec![host, ("host", "evil.example")], 421),
            ("/abc123/", vec![host, ("origin", "http://evil.example")], 403),
            ("/abc123/", vec![host, ("origin", "null")], 403),
            ("/abc124/", vec![host], 404),
            ("/abc123", vec![host], 404),
            ("/", vec![host], 404),
            ("//state", vec![host], 404),
        ] {
            assert_eq!(guard.place(url, &headers(&list)), Err(Refusal(code)), "{url} {list:?}");
        }
        let post = |list: &[(&str, &str)]| Guard::check_post(&headers(list)).is_ok();
        assert!(post(&[("content-type", "application/json")]));
        assert!(!post(&[]) && !post(&[("content-type", "text/plain")]));
        assert!(!post(&[("content-type", "application/json"), ("sec-fetch-site", "cross-site")]));
    }
}
