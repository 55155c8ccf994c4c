//! PEFT's `rank_pattern` and `alpha_pattern`: numbers by the ends of modules' names.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use regex::Regex;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};

use crate::shown::shown;

/// Most entries that are more than a name: each of them is tried on each module.
const EXPRESSIONS_MAX: usize = 1024;

/// Numbers by patterns. The first entry of the file that fits a module gives its number.
///
/// PEFT tries `re.match(rf"(.*\.)?({pattern})$", module)`. An entry that is only a name is looked up instead, which for
/// names with dots between their parts comes to the same.
#[derive(Debug, Clone)]
pub(super) struct Patterns<T> {
    names: BTreeMap<String, (usize, T)>,
    expressions: Vec<(usize, String, Regex, T)>,
}

impl<T> Default for Patterns<T> {
    fn default() -> Self {
        Self { names: BTreeMap::new(), expressions: Vec::new() }
    }
}

impl<T: Copy> Patterns<T> {
    /// The number of a module.
    pub(super) fn get(&self, module: &str) -> Option<T> {
        let ends = module.match_indices('.').map(|(at, _)| &module[at + 1..]);
        let named = std::iter::once(module).chain(ends).filter_map(|end| self.names.get(end)).copied();
        let expressed = self.expressions.iter().find(|(_, _, pattern, _)| pattern.is_match(module));
        let expressed = expressed.map(|&(order, _, _, value)| (order, value));
        named.chain(expressed).min_by_key(|(order, _)| *order).map(|(_, value)| value)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = T> {
        self.names.values().map(|(_, value)| *value).chain(self.expressions.iter().map(|(.., value)| *value))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty() && self.expressions.is_empty()
    }

    fn insert(&mut self, order: usize, pattern: String, value: T) -> Result<(), String> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if !pattern.is_empty() && pattern.bytes().all(is_plain) {
            self.names.insert(pattern, (order, value));
            return Ok(());
        }
        if self.expressions.len() == EXPRESSIONS_MAX {
            return Err(format!("more than {EXPRESSIONS_MAX} regular expressions"));
        }
        let expression = Regex::new(&format!(r"^(.*\.)?({pattern})$")).map_err(|error| {
            let problem = error.to_string();
            let problem = problem.lines().last().unwrap_or_default().trim_start_matches("error: ");
            format!("the regular expression `{}` cannot be used: {}", shown(&pattern), shown(problem))
        })?;
        self.expressions.push((order, pattern, expression, value));
        Ok(())
    }
}

impl<'de, T: Copy + Deserialize<'de>> Deserialize<'de> for Patterns<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder<T>(PhantomData<T>);

        impl<'de, T: Copy + Deserialize<'de>> Visitor<'de> for InOrder<T> {
            type Value = Patterns<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of names and numbers")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut patterns = Patterns::default();
                let mut order = 0;
                while let Some((pattern, value)) = map.next_entry()? {
                    patterns.insert(order, pattern, value).map_err(A::Error::custom)?;
                    order += 1;
                }
                Ok(patterns)
            }
        }

        deserializer.deserialize_map(InOrder(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(json: &str) -> Result<Patterns<u32>, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn patterns_fit_as_pythons_re_says() {
        // The right value of each case is that of PEFT's `get_pattern_key` with CPython's `re`.
        let cases = [
            (r#"{"to_q": 1}"#, "layers.0.to_q", Some(1)),
            (r#"{"to_q": 1}"#, "layers.0.into_q", None),
            (r#"{"to_q": 1}"#, "to_q", Some(1)),
            (r#"{"0.to_q": 1}"#, "layers.10.to_q", None),
            (r#"{"layers\\.\\d+\\.to_q": 1}"#, "model.layers.10.to_q", Some(1)),
            (r#"{"^layers\\.1\\.to_q": 1}"#, "layers.1.to_q", Some(1)),
            (r#"{"^layers\\.1\\.to_q": 1}"#, "model.layers.1.to_q", None),
            (r#"{".*to_q": 1}"#, "layers.0.into_q", Some(1)),
            (r#"{"(q|k)_proj": 1}"#, "a.k_proj", Some(1)),
            (r#"{"q_proj|k_proj": 1}"#, "a.k_proj", Some(1)),
            (r#"{"q_proj|k_proj": 1}"#, "a.bq_proj", None),
            (r#"{"layers.[0-3].to_q": 1}"#, "layers.4.to_q", None),
            (r#"{"layers.[0-3].to_q": 1, "to_q": 2}"#, "layers.2.to_q", Some(1)),
            (r#"{"to_q": 2, "layers.[0-3].to_q": 1}"#, "layers.2.to_q", Some(2)),
            (r#"{"b.x": 8, "x": 4, "a.b.x": 2}"#, "a.b.x", Some(8)),
            (r#"{"": 1}"#, "a", None),
        ];
        for (json, module, expected) in cases {
            assert_eq!(patterns(json).unwrap().get(module), expected, "{json} {module}");
        }
    }

    #[test]
    fn what_only_python_understands_is_refused() {
        for (json, expected) in [
            (r#"{"(?=a)b": 1}"#, "look-around"),
            (r#"{"(a)\\1": 1}"#, "backreferences"),
            (r#"{"(": 1}"#, "unclosed group"),
        ] {
            let said = patterns(json).unwrap_err();
            assert!(said.contains("regular expression `(") && said.contains(expected), "{said}");
        }
    }
}
