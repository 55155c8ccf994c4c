//! What holds for all models, not only for the real one.

use std::collections::BTreeSet;

use proptest::prelude::*;
use weightsd_core::{
    assemble::{Inputs, Raw, assemble},
    audit::audit,
    family::{self, ModelFacts},
    header::{Dtype, byte_length},
    naming::Naming,
    place::{Layout, place},
    rewrite::canonical,
    tool::Tool,
};

use crate::common::{COMPONENTS, Entry, Model, backwards, entries, header, origin, shapes, table};

prop_compose! {
    fn models()(
        (heads, axes) in (1u64..4, [1u64..5, 1..5, 1..5]),
        (layers, refiners, qk_norm, cap) in (1u64..4, 1u64..3, any::<bool>(), 1u64..9),
        siglip in proptest::option::of(1u64..5),
        patch in 1u64..4,
        (vocab, hidden, te_layers, kv, bias) in (1u64..9, 1u64..9, 1u64..4, 1u64..3, any::<bool>()),
        widths in proptest::collection::vec(1u64..5, 1..6),
        (latent, per_block, attention, quant) in (1u64..4, 1u64..4, any::<bool>(), any::<bool>()),
    ) -> Model {
        let mut model = Model::real();
        let transformer = &mut model.transformer;
        transformer.axes_dims = axes;
        transformer.dim = heads * axes.iter().sum::<u64>();
        (transformer.n_heads, transformer.n_kv_heads) = (heads, heads);
        (transformer.n_layers, transformer.n_refiner_layers, transformer.qk_norm) = (layers, refiners, qk_norm);
        (transformer.cap_feat_dim, transformer.siglip_feat_dim) = (cap, siglip);
        transformer.all_patch_size = vec![2, patch + 2];
        transformer.all_f_patch_size = vec![1, 1];
        let text = &mut model.text_encoder;
        (text.vocab_size, text.hidden_size, text.num_hidden_layers) = (vocab, hidden, te_layers);
        (text.num_key_value_heads, text.attention_bias, text.head_dim) = (kv, bias, 2);
        let vae = &mut model.vae;
        vae.block_out_channels = widths;
        (vae.down_block_types, vae.up_block_types) = (None, None);
        (vae.latent_channels, vae.layers_per_block, vae.mid_block_add_attention) = (latent, per_block, attention);
        (vae.use_quant_conv, vae.use_post_quant_conv) = (quant, !quant);
        model
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn rename_there_and_back_is_identity(model in models(), counts_itself in any::<bool>()) {
        for component in COMPONENTS {
            let description = model.describe(component);
            let own = entries(&description.catalogue.unwrap(), Dtype::BF16);
            let theirs = backwards(&own, &description.rules);
            let mut rules = description.rules;
            if counts_itself {
                rules.count = None;
            }
            let file = table(&theirs);
            let there = canonical(file.tensors().iter().map(|tensor| (&*tensor.info.name, tensor)), &rules).unwrap();
            prop_assert_eq!(shapes(&there.table), shapes(&table(&own)), "{}", component);
            prop_assert!(there.unusable.is_empty() && there.dropped.is_empty());
            prop_assert_eq!(there.table.tensor_bytes(), file.tensor_bytes());
            // What has the catalogue's names already stays as it is.
            let again = canonical(there.table.tensors().iter().map(|tensor| (&*tensor.info.name, tensor)), &rules).unwrap();
            prop_assert_eq!(&again.table, &there.table, "{}", component);
            // Each tensor points at the one that the rules read backwards name.
            for tensor in there.table.tensors() {
                let origin = origin(&description.rules, &tensor.info.name);
                let name = origin.map_or_else(|| tensor.info.name.to_string(), |origin| origin.name);
                prop_assert_eq!(tensor.source_name(), name);
            }
        }
    }

    #[test]
    fn ranges_of_a_plan_never_overlap_and_stay_in_the_file(model in models()) {
        for component in COMPONENTS {
            let description = model.describe(component);
            let theirs = backwards(&entries(&description.catalogue.unwrap(), Dtype::F16), &description.rules);
            let header = header(&theirs);
            let file = table(&theirs);
            let there = canonical(file.tensors().iter().map(|tensor| (&*tensor.info.name, tensor)), &description.rules);
            let mut placed = place(&there.unwrap().table, None, &Naming::NONE, Layout::Source).unwrap();
            placed.sort_by_key(|tensor| (tensor.at.range.start, tensor.at.range.end));
            prop_assert!(placed.windows(2).all(|pair| pair[0].at.range.end <= pair[1].at.range.start));
            let inside = |range: &std::ops::Range<u64>| header.data_start <= range.start && range.end <= header.file_length;
            prop_assert!(placed.iter().all(|tensor| inside(&tensor.at.range)));
            let bytes: u64 = placed.iter().map(|tensor| tensor.at.range.end - tensor.at.range.start).sum();
            prop_assert_eq!(bytes, header.tensor_bytes(), "every byte is lent once");
            for tensor in &placed {
                let bytes = 2 * tensor.shape.iter().product::<u64>();
                prop_assert_eq!(tensor.at.range.end - tensor.at.range.start, bytes, "{}", &tensor.name);
            }
        }
    }

    #[test]
    fn any_names_and_shapes_give_an_answer(
        named in proptest::collection::btree_map(
            r"(model\.diffusion_model\.|text_encoders\.[a-z]\.transformer\.|vae\.|)(layers|model\.layers|decoder\.up|decoder\.up_blocks|control_layers|cap_embedder|decoder\.mid\.attn_1|x)\.([0-9]{1,20}|q|qkv)(\.attention\.qkv|\.block\.0\.conv1|\.after_proj|)\.(weight|bias|scales|biases)",
            (proptest::sample::select(vec![Dtype::U8, Dtype::BF16, Dtype::U32, Dtype::F4, Dtype::F8_E4M3]), proptest::collection::vec(0u64..7, 0..5)),
            0..30,
        ),
        signs in any::<[bool; 6]>(),
    ) {
        let marks = ["model.diffusion_model.cap_embedder.0.weight", "text_encoders.a.transformer.model.embed_tokens.weight",
            "vae.decoder.conv_in.weight", "vae.decoder.conv_out.weight", "vae.decoder.mid.x", "control_all_x_embedder.2-1.weight"];
        let marks = marks.into_iter().zip(signs).filter(|(_, is_there)| *is_there);
        let whole = |(name, (dtype, shape)): (String, (Dtype, Vec<u64>))| {
            byte_length(dtype, &shape).map(|_| (name, dtype, shape))
        };
        let mut file: Vec<Entry> = named.into_iter().filter_map(whole).collect();
        file.extend(marks.map(|(name, _)| (name.to_owned(), Dtype::BF16, vec![4, 4])));
        let table = table(&file);
        let Some((family, located)) = family::locate(&table) else { return Ok(()) };
        let counted: usize = located.parts.iter().map(|part| part.tensors).sum();
        prop_assert_eq!(counted + located.unassigned.len(), file.len(), "each tensor is in one part or in none");
        for part in &located.parts {
            let Ok(raw) = Raw::of_part(&table, &located, part.component, None, family, Tool::Unknown) else { continue };
            let inputs = Inputs { component: part.component, family, description: None,
                model: family.name(None, &ModelFacts::default()), raw, other: None, declaration: None };
            // Hardly ever a model; that none of it panics is what counts, and that what is lent lies in the file.
            if let Ok(assembled) = assemble(inputs) {
                for tensor in assembled.table.tensors() {
                    let length = byte_length(tensor.info.dtype, &tensor.info.shape);
                    prop_assert_eq!(Some(tensor.info.bytes()), length, "{}", &tensor.info.name);
                }
            }
        }
    }

    #[test]
    fn the_audit_reports_exactly_what_was_taken_away(
        model in models(),
        picks in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        for component in COMPONENTS {
            let catalogue = model.catalogue(component);
            let mut left = entries(&catalogue, Dtype::F32);
            let gone: BTreeSet<usize> = picks.iter().map(|pick| pick.index(left.len())).collect();
            let names: BTreeSet<String> = gone.iter().map(|&at| left[at].0.clone()).collect();
            left.retain(|(name, ..)| !names.contains(name));
            let report = audit(component, &table(&left), Some(&catalogue), vec![]);
            prop_assert_eq!(report.missing.iter().cloned().collect::<BTreeSet<_>>(), names);
            prop_assert_eq!(report.matched, left.len());
            prop_assert!(report.extra.is_empty() && report.wrong_shape.is_empty() && report.wrong_dtype.is_empty());
            prop_assert_eq!(report.is_clean(), gone.is_empty());
        }
    }
}
