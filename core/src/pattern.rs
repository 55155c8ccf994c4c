//! Patterns over dotted tensor names.
//!
//! A pattern is a name with open parts: `#` is an index, `*` is any one part, and a final `**` is any rest
//! of one part or more. In place of `#` a rule may write `~`: the same index counted from the other end. What is open
//! on one side of a rule is filled, in order, from what the other side matched.

/// Most open parts of each kind in one pattern.
const CAPTURES_MAX: usize = 4;

/// A name with open parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pattern(pub &'static str);

/// What the open parts of a pattern stood for in a name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Captures<'a> {
    indexes: [u64; CAPTURES_MAX],
    index_count: usize,
    words: [&'a str; CAPTURES_MAX],
    word_count: usize,
    rest: &'a str,
}

impl Captures<'_> {
    /// The indexes, in order.
    #[must_use]
    pub fn indexes(&self) -> &[u64] {
        &self.indexes[..self.index_count]
    }
}

impl Pattern {
    /// Matches all of `name`.
    #[must_use]
    pub fn matches<'a>(&self, name: &'a str) -> Option<Captures<'a>> {
        let mut captures = Captures::default();
        let mut left = Some(name);
        for open in self.0.split('.') {
            let rest = left?;
            if open == "**" {
                captures.rest = rest;
                return (!rest.is_empty()).then_some(captures);
            }
            let (part, after) = match rest.split_once('.') {
                Some((part, after)) => (part, Some(after)),
                None => (rest, None),
            };
            match open {
                "#" | "~" => {
                    *captures.indexes.get_mut(captures.index_count)? = index(part)?;
                    captures.index_count += 1;
                }
                "*" => {
                    *captures.words.get_mut(captures.word_count)? = part;
                    captures.word_count += 1;
                }
                literal if literal == part => {}
                _ => return None,
            }
            left = after;
        }
        left.is_none().then_some(captures)
    }

    /// The name that this pattern, as the other side of a rule that matched with `from`, gives to `captures`. An index
    /// that is `~` on one side only becomes `count - 1 - index`; there is no name when it is not below `count`.
    #[must_use]
    pub fn fill(&self, captures: &Captures<'_>, from: Pattern, count: u64) -> Option<String> {
        let mut turned = from.indexes();
        let mut indexes = captures.indexes().iter();
        let mut words = captures.words[..captures.word_count].iter();
        let mut name = String::with_capacity(self.0.len() + captures.rest.len() + 16);
        for part in self.0.split('.') {
            if !name.is_empty() {
                name.push('.');
            }
            match part {
                "#" | "~" => {
                    let index = *indexes.next()?;
                    let is_turned = (part == "~") != (turned.next()? == "~");
                    let index = if is_turned { count.checked_sub(1)?.checked_sub(index)? } else { index };
                    name.push_str(&index.to_string());
                }
                "*" => name.push_str(words.next()?),
                "**" => name.push_str(captures.rest),
                literal => name.push_str(literal),
            }
        }
        Some(name)
    }

    /// Which of the indexes is counted from the other end, when one is.
    #[must_use]
    pub fn turned(&self) -> Option<usize> {
        self.indexes().position(|part| part == "~")
    }

    fn indexes(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.0.split('.').filter(|part| matches!(*part, "#" | "~"))
    }
}

/// Decimal digits without leading zeros: another spelling would not come back from a rename.
fn index(part: &str) -> Option<u64> {
    let plain = part.bytes().all(|byte| byte.is_ascii_digit()) && (part == "0" || !part.starts_with('0'));
    if plain { part.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rename(from: &'static str, to: &'static str, name: &str) -> Option<String> {
        Pattern(to).fill(&Pattern(from).matches(name)?, Pattern(from), 4)
    }

    #[test]
    fn open_parts_are_carried_over_in_order() {
        let cases = [
            ("a.b", "c", "a.b", Some("c")),
            ("a.b", "c", "a.b.c", None),
            ("a.b.c", "c", "a.b", None),
            ("*.#.x.*", "y.*.#.*", "layers.12.x.weight", Some("y.layers.12.weight")),
            (
                "up.~.block.#.**",
                "up_blocks.#.resnets.#.**",
                "up.3.block.1.norm.bias",
                Some("up_blocks.0.resnets.1.norm.bias"),
            ),
            ("up_blocks.#.resnets.#.**", "up.~.block.#.**", "up_blocks.0.resnets.1.n", Some("up.3.block.1.n")),
            ("up.~", "up_blocks.#", "up.4", None),
            ("a.#", "b.#", "a.01", None),
            ("a.#", "b.#", "a.x", None),
            ("a.#", "b.#", "a.99999999999999999999", None),
            ("a.**", "b.**", "a", None),
            ("a.**", "b.**", "a.", None),
        ];
        for (from, to, name, expected) in cases {
            assert_eq!(rename(from, to, name).as_deref(), expected, "{from} -> {to}: {name}");
        }
    }

    #[test]
    fn a_part_is_matched_whole() {
        assert!(Pattern("x_embedder.weight").matches("all_x_embedder.weight").is_none());
        assert!(Pattern("transformer_blocks.#").matches("single_transformer_blocks.1").is_none());
        assert_eq!(Pattern("a.~.#").turned(), Some(0));
        assert_eq!(Pattern("a.#").turned(), None);
    }
}
