//! Writes the query of a request in the form that its signature covers.
//!
//! The S3 client signs the canonical form, yet sends that of HTML forms, which differs in three
//! characters. Both say the same, and S3 compares what they say; servers that compare the letters,
//! such as moto, refuse `~`, `*` and spaces. Source: AWS, "Signature Version 4", canonical query.

use axum::http::Uri;

/// Returns the address of `uri` with its query in canonical form.
pub(super) fn canonical(uri: &Uri) -> String {
    let address = uri.to_string();
    let Some((before, query)) = address.split_once('?') else { return address };
    let query = query.replace("%7E", "~").replace('*', "%2A").replace('+', "%20");
    format!("{before}?{query}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_sent_as_it_is_signed() {
        for (sent, want) in [
            ("http://h/a~b*c+d", "http://h/a~b*c+d"),
            ("http://h/b?list-type=2&prefix=A_b%7Ec", "http://h/b?list-type=2&prefix=A_b~c"),
            ("http://h/b?prefix=a+b*%2Bc&x=", "http://h/b?prefix=a%20b%2A%2Bc&x="),
        ] {
            assert_eq!(canonical(&sent.parse().unwrap()), want);
        }
    }
}
