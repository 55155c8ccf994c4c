//! How many files a component has, and what they are called.

use crate::Tensor;

/// Distributes tensors as `split_torch_state_dict_into_shards` of `huggingface_hub` does: one after the other into the
/// current shard until the next would exceed the limit; a tensor above the limit has a shard for itself, which comes
/// before the current one.
pub(crate) fn split(tensors: &[Tensor], bytes_max: u64) -> Vec<Vec<&Tensor>> {
    let mut shards = Vec::new();
    let mut current = Vec::new();
    let mut current_bytes = 0;
    for tensor in tensors {
        let bytes = tensor.bytes();
        if bytes > bytes_max {
            shards.push(vec![tensor]);
            continue;
        }
        if current_bytes + bytes > bytes_max {
            shards.push(std::mem::take(&mut current));
            current_bytes = 0;
        }
        current.push(tensor);
        current_bytes += bytes;
    }
    if !current.is_empty() || shards.is_empty() {
        shards.push(current);
    }
    shards
}

/// File name of shard `at` (counted from 0) of `count`.
pub(crate) fn name(stem: &str, at: usize, count: usize) -> String {
    match count {
        1 => format!("{stem}.safetensors"),
        _ => format!("{stem}-{:05}-of-{count:05}.safetensors", at + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dtype;

    #[test]
    fn greedy_and_a_file_for_what_is_too_large() {
        let tensors: Vec<Tensor> = [("a", 3), ("b", 9), ("c", 2), ("d", 1)]
            .map(|(name, bytes)| Tensor { name: name.to_owned(), dtype: Dtype::U8, shape: vec![bytes] })
            .to_vec();
        let names: Vec<Vec<&str>> =
            split(&tensors, 5).iter().map(|shard| shard.iter().map(|tensor| tensor.name.as_str()).collect()).collect();
        assert_eq!(names, [vec!["b"], vec!["a", "c"], vec!["d"]]);
        assert_eq!(split(&[], 5).len(), 1);
        assert_eq!(name("model", 1, 3), "model-00002-of-00003.safetensors");
        assert_eq!(name("model", 0, 1), "model.safetensors");
    }
}
