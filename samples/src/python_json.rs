//! JSON as Python's `json.dumps(value, indent=n, sort_keys=True)` writes it, so that files come out at their published
//! sizes.

use serde_json::{Number, Value};

/// Writes the value, without a final newline.
pub(crate) fn dumps(value: &Value, indent: usize) -> String {
    let mut text = String::new();
    write(&mut text, value, indent, 0);
    text
}

fn write(text: &mut String, value: &Value, indent: usize, depth: usize) {
    match value {
        Value::Array(items) if !items.is_empty() => {
            enclose(text, ['[', ']'], items, indent, depth, |text, item| write(text, item, indent, depth + 1));
        }
        Value::Object(entries) if !entries.is_empty() => {
            let mut sorted: Vec<_> = entries.iter().collect();
            sorted.sort_unstable_by_key(|(key, _)| *key);
            enclose(text, ['{', '}'], sorted, indent, depth, |text, (key, item)| {
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push_str(": ");
                write(text, item, indent, depth + 1);
            });
        }
        Value::Number(number) => text.push_str(&float_or_integer(number)),
        other => text.push_str(&other.to_string()),
    }
}

fn enclose<T>(
    text: &mut String,
    [open, close]: [char; 2],
    items: impl IntoIterator<Item = T>,
    indent: usize,
    depth: usize,
    mut each: impl FnMut(&mut String, T),
) {
    let new_line = |text: &mut String, depth: usize| {
        text.push('\n');
        text.push_str(&" ".repeat(indent * depth));
    };
    text.push(open);
    for (at, item) in items.into_iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        new_line(text, depth + 1);
        each(text, item);
    }
    new_line(text, depth);
    text.push(close);
}

/// Python writes exponents from 1e-5 downwards, as Rust does, and with two digits: `1e-05`.
fn float_or_integer(number: &Number) -> String {
    let text = match number.as_f64() {
        Some(float) if number.is_f64() => format!("{float:?}"),
        _ => number.to_string(),
    };
    match text.split_once("e-") {
        Some((mantissa, exponent)) => format!("{mantissa}e-{exponent:0>2}"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn python_writes_the_same() {
        let value = json!({"b": [1, 2.0], "a": {"x": 1e-5, "y": null}, "c": [], "d": "\"", "e": 0.3611, "f": 0.0});
        let expected = "{\n  \"a\": {\n    \"x\": 1e-05,\n    \"y\": null\n  },\n  \"b\": [\n    1,\n    2.0\n  ],\n  \
                        \"c\": [],\n  \"d\": \"\\\"\",\n  \"e\": 0.3611,\n  \"f\": 0.0\n}";
        assert_eq!(dumps(&value, 2), expected);
    }
}
