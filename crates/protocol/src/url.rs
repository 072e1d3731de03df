//! URLs with a user and a password: the characters by which a parser reads less of them than was meant.

/// Where a `#`, `/` or `?` ends the user or the password of this URL early: what to write instead, without showing
/// either.
///
/// A parser would take a part of the password for a host, a port or a path, and another cause would be reported.
pub fn ends_early(url: &str) -> Option<&'static str> {
    let (_, rest) = url.split_once("://")?;
    if rest.contains('#') {
        return Some("a # ends a URL: in a user or password write %23 for it");
    }
    let end = rest.find(['/', '?'])?;
    let (path, query) = rest[end..].split_once('?').unwrap_or((&rest[end..], ""));
    if path.contains('@') {
        return Some("a / ends user and password: within them write %2F for it, and behind them %40 for an @");
    }
    // A parameter has a name.
    let is_cut = query.split_once('@').is_some_and(|(before, _)| !before.contains('='));
    is_cut.then_some("a ? ends user and password: within them write %3F for it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_that_would_be_cut_off_is_found_and_not_shown() {
        for (url, instead) in [
            ("amqp://u:gehe#im@h:5672/v", "%23"),
            ("amqp://u:12#3@h", "%23"),
            ("amqp://u:geheim@h/v#w", "%23"),
            ("amqp://u:gehe/im@h:5672/v", "%2F"),
            ("amqp://u:12/3@h/v", "%2F"),
            ("postgres://u:ge@he/im@h/d", "%2F"),
            ("postgres://u:gehe?im@h/d", "%3F"),
            ("postgres://u:12?3@h/d", "%3F"),
            ("postgres://u:g/h?im@h/d", "%3F"),
        ] {
            let found = ends_early(url).unwrap_or_else(|| panic!("{url} is read short"));
            assert!(found.contains(instead) && !found.contains("im"), "{url}: {found}");
        }
    }

    #[test]
    fn a_url_that_is_read_whole_is_left_alone() {
        for url in [
            "amqp://guest:guest@127.0.0.1:5672/%2f",
            "amqp://u:p%23%2F%3F@h",
            "amqp://u:p@ss:w[o]rd,;!$&'()*+=%20@[::1]:5672/v",
            "amqp://h",
            "amqp://h/",
            "postgres://u@h/d?sslmode=verify-full&sslrootcert=/etc/ca.pem",
            "postgres:///d?host=/run/postgresql&user=a@b",
            "postgres://h?user=a@b",
            "nonsense",
            "",
        ] {
            assert_eq!(ends_early(url), None, "{url}");
        }
    }
}
