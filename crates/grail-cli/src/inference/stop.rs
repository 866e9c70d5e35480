//! Finds stop strings in a text that arrives in pieces, and lets nothing of them out.

/// Finds the first stop string, whatever pieces the text comes in.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    stops: Vec<String>,
    /// Text that may be the beginning of a stop string.
    held: String,
}

/// What a piece of text amounts to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matched {
    /// Text that is certainly before any stop string.
    pub text: String,
    /// The stop string that was found; nothing comes after it.
    pub stop: Option<String>,
}

impl StopMatcher {
    /// Takes the stop strings; empty ones match nothing.
    pub fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        Self { stops, held: String::new() }
    }

    /// Takes the next piece.
    pub fn push(&mut self, piece: &str) -> Matched {
        self.held.push_str(piece);
        // Of two that begin at the same place the longer one is what the reader sees the end of.
        let found = self.stops.iter().filter_map(|stop| Some((self.held.find(stop)?, stop)));
        let first = found.min_by_key(|(at, stop)| (*at, std::cmp::Reverse(stop.len())));
        if let Some((at, stop)) = first {
            let stop = Some(stop.clone());
            let text = self.held[..at].to_owned();
            self.held.clear();
            return Matched { text, stop };
        }
        let certain = self.held.len() - self.open_len();
        Matched { text: self.held.drain(..certain).collect(), stop: None }
    }

    /// Returns the text held back, once nothing more can come.
    pub fn finish(self) -> String {
        self.held
    }

    /// Returns the length of the longest end of the held text that a stop string begins with.
    fn open_len(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0).saturating_sub(1);
        let starts = self.held.char_indices().map(|(at, _)| at);
        starts
            .map(|at| self.held.len() - at)
            .filter(|len| *len <= longest)
            .find(|len| {
                let end = &self.held[self.held.len() - len..];
                self.stops.iter().any(|stop| stop.starts_with(end))
            })
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matcher(stops: &[&str]) -> StopMatcher {
        StopMatcher::new(&stops.iter().map(|&stop| stop.to_owned()).collect::<Vec<_>>())
    }

    /// Pushes the pieces; returns what came out at each, and the stop string.
    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, Option<String>) {
        let mut matcher = matcher(stops);
        let mut texts = Vec::new();
        for piece in pieces {
            let matched = matcher.push(piece);
            texts.push(matched.text);
            if matched.stop.is_some() {
                return (texts, matched.stop);
            }
        }
        texts.push(matcher.finish());
        (texts, None)
    }

    #[test]
    fn a_stop_string_is_found_across_pieces_and_never_shown() {
        let stop = |text: &str| Some(text.to_owned());
        for (stops, pieces, texts, found) in [
            (vec!["END"], vec!["abEN", "D more"], vec!["ab", ""], stop("END")),
            (vec!["END"], vec!["abEN", "d"], vec!["ab", "ENd", ""], None),
            (vec!["END"], vec!["E", "E", "N", "D"], vec!["", "E", "", ""], stop("END")),
            (vec!["aab"], vec!["a", "a", "a", "b"], vec!["", "", "a", ""], stop("aab")),
            (vec!["\n\n", "x"], vec!["one\n", "\ntwo x"], vec!["one", ""], stop("\n\n")),
            (vec!["later", "l"], vec!["later"], vec![""], stop("later")),
            (vec!["é€"], vec!["aé", "€b"], vec!["a", ""], stop("é€")),
            (vec![""], vec!["abc"], vec!["abc", ""], None),
            (vec![], vec!["abc"], vec!["abc", ""], None),
            (vec!["abc"], vec!["ab"], vec!["", "ab"], None),
        ] {
            let (found_texts, found_stop) = run(&stops, &pieces);
            assert_eq!(
                (found_texts, found_stop),
                (texts.iter().map(|&t| t.to_owned()).collect(), found),
                "{stops:?} in {pieces:?}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn pieces_do_not_matter(
            pieces in prop::collection::vec("[abé]{0,4}", 0..8),
            stops in prop::collection::vec("[abé]{1,3}", 0..3),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let texts: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let whole = pieces.concat();
            let (shown, stop) = run(&stops, &texts);
            let first = stops.iter().filter_map(|stop| whole.find(stop)).min();
            match first {
                // In pieces, a short stop may be complete before a longer one at an earlier place.
                Some(at) => {
                    prop_assert!(stop.is_some());
                    prop_assert!(shown.concat().len() >= at);
                    prop_assert!(whole.starts_with(&shown.concat()));
                    let stop = stop.unwrap();
                    prop_assert!(whole[shown.concat().len()..].starts_with(&stop));
                    prop_assert!(stops.iter().all(|stop| !shown.concat().contains(stop)));
                }
                None => {
                    prop_assert_eq!(stop, None);
                    prop_assert_eq!(shown.concat(), whole);
                }
            }
        }
    }
}
