//! Files that hold a whole model, or one component of it, without a config.

use weightsd_core::{
    assemble::{AssembleError, Assembled, Inputs, Raw, assemble},
    explain::Explain as _,
    family::{self, Family, ModelFacts, z_image::ZImage},
    header::Dtype,
    origin::Operation,
    parts::{FileKind, Located, PartProblem},
    place::{Layout, place},
    source::SourceId,
    table::Table,
    tool::Tool,
};

use crate::common::{COMPONENTS, Entry, Model, all_in_one, backwards, entries, shapes, table, under};

fn locate(table: &Table) -> Located {
    let (family, located) = family::locate(table).expect("a file that is known");
    assert_eq!(family.id(), "z-image");
    located
}

/// As the daemon does it for a file without configs.
fn open(file: &[Entry], component: &str, name: &str) -> Result<Assembled, AssembleError> {
    let table = table(file);
    let located = locate(&table);
    let raw = Raw::of_part(&table, &located, component, None, &ZImage, Tool::Unknown)?;
    let model = ZImage.name(Some(name), &ModelFacts::default());
    assemble(Inputs { component, family: &ZImage, description: None, model, raw, other: None, declaration: None })
}

fn one(name: &str, shape: &[u64]) -> Entry {
    (name.to_owned(), Dtype::BF16, shape.to_vec())
}

/// The smallest file that is one: six names.
fn six() -> Vec<Entry> {
    vec![
        one("model.diffusion_model.cap_embedder.0.weight", &[8]),
        one("text_encoders.qwen3_4b.transformer.model.embed_tokens.weight", &[4, 8]),
        one("vae.decoder.conv_in.weight", &[8, 4, 3, 3]),
        one("vae.decoder.conv_out.weight", &[3, 8, 3, 3]),
        one("vae.decoder.mid.block_1.conv1.weight", &[8, 8, 3, 3]),
        one("vae.decoder.up.0.block.0.conv1.weight", &[8, 8, 3, 3]),
    ]
}

fn without(entries: &[Entry], name: &str) -> Vec<Entry> {
    entries.iter().filter(|(entry, ..)| !entry.contains(name)).cloned().collect()
}

#[test]
fn six_names_make_an_all_in_one_file() {
    let located = locate(&table(&six()));
    assert_eq!(located.kind, FileKind::AllInOne);
    assert!(located.problems.is_empty() && located.unassigned.is_empty());
    let prefixes: Vec<_> = located.parts.iter().map(|part| (part.component, part.prefix.as_str())).collect();
    let expected = [
        ("transformer", "model.diffusion_model."),
        ("text_encoder", "text_encoders.qwen3_4b.transformer."),
        ("vae", "vae."),
    ];
    assert_eq!(prefixes, expected);
}

#[test]
fn what_is_missing_is_named() {
    let cases: [(&str, &str, &str); 6] = [
        ("text_encoders", "text_encoder", "text encoder"),
        ("cap_embedder", "transformer", "transformer"),
        ("vae.", "vae", "VAE"),
        ("vae.decoder.conv_in", "vae", "first and last convolution"),
        (
            "vae.decoder.mid",
            "vae",
            "`vae.decoder.mid_block.**` and `vae.decoder.up_blocks.**`, or `vae.decoder.mid.**`",
        ),
        ("embed_tokens", "text_encoder", "no tensor is named `text_encoders.*.transformer.`"),
    ];
    for (gone, component, words) in cases {
        let located = locate(&table(&without(&six(), gone)));
        assert_eq!(located.kind, FileKind::SomeParts, "{gone}");
        assert!(located.part(component).is_none());
        let problem = located.problems.iter().find(|problem| problem.component() == component).unwrap();
        assert!(problem.to_string().contains(words), "{problem} should say {words}");
        // The other two are there and can be lent.
        assert_eq!((located.parts.len(), located.problems.len()), (2, 1), "{gone}");
    }
    let mut torso = without(&six(), "embed_tokens");
    torso.push(one("text_encoders.qwen3_4b.transformer.model.norm.weight", &[8]));
    let located = locate(&table(&torso));
    let said = located.problems[0].to_string();
    assert!(said.contains("text encoder") && said.contains("lacks the token embedding"), "{said}");
}

#[test]
fn every_prefix_is_known() {
    let real = Model::real();
    let part = |component: &str| {
        let description = real.describe(component);
        backwards(&entries(&description.catalogue.unwrap(), Dtype::BF16), &description.rules)
    };
    let text_encoder = entries(&real.catalogue("text_encoder"), Dtype::BF16);
    let cases = [
        (
            "transformer",
            part("transformer"),
            vec!["model.diffusion_model.", "diffusion_model.", "model.model.", "net.", "model.", "transformer.", ""],
        ),
        (
            "text_encoder",
            text_encoder,
            vec!["text_encoders.qwen3_4b.transformer.", "text_encoders.anything.transformer.", "cond_stage_model.", ""],
        ),
        ("vae", part("vae"), vec!["vae.", "first_stage_model.", ""]),
    ];
    for (component, own, prefixes) in cases {
        for prefix in prefixes {
            let located = locate(&table(&under(prefix, &own)));
            assert_eq!(located.kind, FileKind::Single, "{component} under {prefix:?}");
            assert_eq!(located.part(component).map(|part| part.prefix.as_str()), Some(prefix), "{component}");
            let assembled = open(&under(prefix, &own), component, "").unwrap();
            assert!(assembled.report.is_clean(), "{component} under {prefix:?}: {}", assembled.report.summary());
        }
    }
}

#[test]
fn diffusers_names_without_a_prefix_stay_as_they_are() {
    for component in COMPONENTS {
        let own = entries(&Model::real().catalogue(component), Dtype::BF16);
        let assembled = open(&own, component, "").unwrap();
        assert_eq!(shapes(&assembled.table), shapes(&table(&own)));
        assert!(assembled.table.tensors().iter().all(|tensor| tensor.origin.is_none()));
    }
}

#[test]
fn several_text_encoders_are_told_apart() {
    let other = one("text_encoders.a_llama.transformer.model.embed_tokens.weight", &[4, 8]);
    let located = locate(&table(&[six(), vec![other.clone()]].concat()));
    assert_eq!(located.part("text_encoder").unwrap().prefix, "text_encoders.qwen3_4b.transformer.");
    assert_eq!(located.unassigned, std::slice::from_ref(&other.0));

    // None is the preferred one: refused with the list, whatever order the names have.
    let third = one("text_encoders.b_llama.transformer.model.embed_tokens.weight", &[4, 8]);
    let file = [without(&six(), "qwen3"), vec![third, other.clone()]].concat();
    let located = locate(&table(&file));
    let PartProblem::Several { prefixes, .. } = &located.problems[0] else { panic!("{:?}", located.problems) };
    assert_eq!(prefixes, &["text_encoders.a_llama.transformer.", "text_encoders.b_llama.transformer."]);
    assert!(matches!(
        Raw::of_part(&table(&file), &located, "text_encoder", None, &ZImage, Tool::Unknown),
        Err(AssembleError::NoPart { problems, .. }) if problems.len() == 1
    ));

    // A CLIP beside it has no such embedding and is no candidate.
    let clip = one("text_encoders.clip_l.transformer.text_model.embeddings.token_embedding.weight", &[4, 8]);
    let located = locate(&table(&[without(&six(), "qwen3"), vec![clip, other]].concat()));
    assert_eq!(located.part("text_encoder").unwrap().prefix, "text_encoders.a_llama.transformer.");
}

#[test]
fn other_models_are_not_taken_for_this_one() {
    let lumina = [one("cap_embedder.0.weight", &[2304]), one("cap_embedder.1.weight", &[2304, 2304])];
    assert!(family::locate(&table(&lumina)).is_none());
    let small_vae = [
        one("decoder.conv_in.weight", &[512, 4, 3, 3]),
        one("decoder.conv_in.bias", &[512]),
        one("decoder.conv_out.weight", &[3, 128, 3, 3]),
        one("decoder.mid.block_1.conv1.weight", &[512, 512, 3, 3]),
        one("decoder.up.0.block.0.conv1.weight", &[128, 128, 3, 3]),
        one("encoder.conv_out.bias", &[8]),
    ];
    assert!(family::locate(&table(&small_vae)).is_none(), "Stable Diffusion's has four latent channels");
    let llama = [
        one("model.embed_tokens.weight", &[32000, 4096]),
        one("model.layers.0.self_attn.o_proj.weight", &[4096, 4096]),
    ];
    assert!(family::locate(&table(&llama)).is_none());
    assert!(family::locate(&Table::default()).is_none());
}

#[test]
fn the_real_file_gives_all_three_components() {
    let file = all_in_one(&Model::real());
    assert_eq!(file.len(), 1095);
    let real = table(&file);
    let located = locate(&real);
    assert_eq!(located.kind, FileKind::AllInOne);
    let counts: Vec<_> = located.parts.iter().map(|part| (part.tensors, part.bytes)).collect();
    assert_eq!(counts, [(453, 12_309_817_472), (398, 8_044_936_192), (244, 167_639_366)]);
    for component in COMPONENTS {
        let assembled = open(&file, component, "x.safetensors").unwrap();
        assert!(assembled.report.is_clean(), "{}", assembled.report.summary());
        let own = entries(&Model::real().catalogue(component), Dtype::BF16);
        assert_eq!(shapes(&assembled.table), shapes(&table(&own)));
        let placed = place(
            &assembled.table,
            assembled.description.catalogue.as_ref(),
            &assembled.description.naming,
            Layout::Source,
        );
        assert_eq!(placed.unwrap().len(), own.len());
    }
    let transformer = open(&file, "transformer", "x.safetensors").unwrap();
    let rows = transformer.table.get("layers.7.attention.to_v.weight").unwrap();
    let origin = rows.origin.as_ref().unwrap();
    assert_eq!(&*origin.name, "model.diffusion_model.layers.7.attention.qkv.weight");
    assert_eq!(origin.operation, Operation::Rows { first: 7680, count: 3840, of: 11520 });
    let whole = real.get(&origin.name).unwrap();
    assert_eq!(rows.info.range, whole.info.range.start + 2 * 7680 * 3840..whole.info.range.end);
    let origins = transformer.report.origins[&SourceId(0)];
    assert_eq!((origins.tensors(), origins.rows), (521, 102));
}

#[test]
fn what_was_assumed_is_said() {
    let said = |name: &str| {
        let assembled = open(&all_in_one(&Model::real()), "transformer", name).unwrap();
        assembled.assumptions.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    let nothing = said("/models/mix.safetensors");
    assert!(nothing.contains("z-image-turbo") && nothing.contains("the base model and Turbo have the same tensors"));
    assert!(said("/models/z-image-base.safetensors").contains("model: z-image (by its name"));
}

#[test]
fn a_layer_that_is_not_there_is_missing() {
    let file = all_in_one(&Model::real());
    let cut = without(&file, "diffusion_model.layers.29.");
    let report = open(&cut, "transformer", "").unwrap().report;
    assert_eq!((report.missing.len(), report.matched), (15, 506));
    assert!(!report.is_clean() && (report.coverage().unwrap() - 506.0 / 521.0).abs() < 1e-9);
    // The last block of the decoder, in the order of LDM: the blocks before it stay where they are.
    let cut = without(&file, "vae.decoder.up.3.");
    let report = open(&cut, "vae", "").unwrap().report;
    assert!(report.missing.iter().all(|name| name.starts_with("decoder.up_blocks.0.")), "{:?}", report.missing);
    assert!(report.wrong_shape.is_empty());
}

#[test]
fn a_fused_tensor_that_does_not_split_is_damage() {
    let mut file = all_in_one(&Model::real());
    let qkv = file.iter_mut().find(|(name, ..)| name.ends_with("layers.3.attention.qkv.weight")).unwrap();
    qkv.2 = vec![11519, 3840];
    let report = open(&file, "transformer", "").unwrap().report;
    assert_eq!(report.missing.len(), 3);
    assert_eq!(report.wrong_shape.len(), 1);
    assert!(report.wrong_shape[0].name.ends_with("layers.3.attention.qkv.weight"));
    assert!(report.wrong_shape[0].found.contains("11519"));
    assert!(!report.is_clean());
}

#[test]
fn a_file_with_both_layouts_of_one_tensor_is_refused() {
    let mut file = all_in_one(&Model::real());
    file.push(one("model.diffusion_model.layers.3.attention.to_q.weight", &[3840, 3840]));
    let error = open(&file, "transformer", "").unwrap_err();
    assert!(matches!(error, AssembleError::Rewrite(_)));
    let said = error.to_string();
    assert!(
        said.contains("layers.3.attention.to_q.weight") && said.contains("layers.3.attention.qkv.weight"),
        "{said}"
    );
}

#[test]
fn a_file_with_fp8_is_recognised_and_says_what_cannot_be_done() {
    let mut file = all_in_one(&Model::real());
    for (name, dtype, _) in &mut file {
        if name.starts_with("text_encoders.") && name.ends_with("_proj.weight") {
            *dtype = Dtype::F8_E4M3;
        }
    }
    file.push(("text_encoders.qwen3_4b.transformer.scaled_fp8".to_owned(), Dtype::F8_E4M3, vec![0]));
    let located = locate(&table(&file));
    assert_eq!(located.kind, FileKind::AllInOne);
    let part = located.part("text_encoder").unwrap();
    assert!(part.limits.is_empty(), "the report says what cannot be done: {:?}", part.limits);
    assert!(located.part("transformer").unwrap().limits.is_empty());
    assert!(open(&file, "transformer", "").unwrap().report.is_clean());
    let report = open(&file, "text_encoder", "").unwrap().report;
    assert_eq!(
        (report.wrong_dtype.len(), report.foreign.as_slice()),
        (0, ["FP8 without a scale".to_owned()].as_slice())
    );
    assert_eq!(report.schemes["FP8 without a scale"].tensors, 252);
    let assembled = open(&file, "text_encoder", "").unwrap();
    let opaque = &assembled.layers.opaque["model.layers.0.mlp.down_proj"];
    assert!(opaque.why.contains("the scale is missing"), "the file is marked as scaled: {}", opaque.why);
}

#[test]
fn vae_attention_is_squeezed_and_samplers_stay_kernels() {
    let assembled = open(&all_in_one(&Model::real()), "vae", "").unwrap();
    let shape = |name: &str| assembled.table.get(name).unwrap().info.shape.clone();
    assert_eq!(shape("decoder.mid_block.attentions.0.to_q.weight"), [512, 512]);
    assert_eq!(shape("encoder.mid_block.attentions.0.to_out.0.weight"), [512, 512]);
    assert_eq!(shape("decoder.up_blocks.2.resnets.0.conv_shortcut.weight"), [256, 512, 1, 1]);
    assert_eq!(shape("decoder.up_blocks.0.upsamplers.0.conv.weight"), [512, 512, 3, 3]);
    for (name, source) in [
        ("decoder.up_blocks.0.resnets.2.conv1.bias", "vae.decoder.up.3.block.2.conv1.bias"),
        ("decoder.up_blocks.3.resnets.0.norm2.weight", "vae.decoder.up.0.block.0.norm2.weight"),
        ("decoder.mid_block.attentions.0.group_norm.bias", "vae.decoder.mid.attn_1.norm.bias"),
        ("decoder.mid_block.resnets.1.conv2.weight", "vae.decoder.mid.block_2.conv2.weight"),
        ("decoder.conv_norm_out.weight", "vae.decoder.norm_out.weight"),
        ("encoder.down_blocks.1.resnets.0.conv_shortcut.bias", "vae.encoder.down.1.block.0.nin_shortcut.bias"),
    ] {
        assert_eq!(assembled.table.get(name).unwrap().source_name(), source);
    }
    assert!(assembled.table.get("decoder.norm_out.weight").is_none(), "old names are gone");
}

#[test]
fn a_vae_without_an_encoder_is_half_a_vae() {
    let half = without(&all_in_one(&Model::real()), "vae.encoder.");
    let only =
        half.iter().filter_map(|(name, dtype, shape)| Some((name.strip_prefix("vae.")?.into(), *dtype, shape.clone())));
    for file in [half.clone(), only.collect()] {
        let assembled = open(&file, "vae", "").unwrap();
        assert_eq!((assembled.report.matched, assembled.report.is_clean()), (138, true));
        assert!(assembled.assumptions.iter().any(|assumption| assumption.what == "halves"));
    }
}

#[test]
fn smaller_models_describe_themselves_where_they_can() {
    let mut model = Model::real();
    model.transformer.dim = 256;
    (model.transformer.n_heads, model.transformer.n_kv_heads) = (2, 2);
    (model.transformer.n_layers, model.transformer.cap_feat_dim) = (3, 64);
    (model.text_encoder.hidden_size, model.text_encoder.num_hidden_layers) = (64, 3);
    model.vae.block_out_channels = vec![4, 8];
    model.vae.down_block_types = Some(vec!["DownEncoderBlock2D".to_owned(); 2]);
    model.vae.up_block_types = Some(vec!["UpDecoderBlock2D".to_owned(); 2]);
    model.vae.layers_per_block = 1;
    for component in COMPONENTS {
        let assembled = open(&all_in_one(&model), component, "").unwrap();
        assert!(assembled.report.is_clean(), "{component}: {}", assembled.report.summary());
        assert_eq!(assembled.description.config, model.describe(component).config, "{component}");
        assert!(!assembled.assumptions.is_empty());
    }
    // With heads of another width the axes cannot be told: a base model must.
    model.transformer.axes_dims = [8, 8, 8];
    (model.transformer.dim, model.transformer.n_heads, model.transformer.n_kv_heads) = (48, 2, 2);
    let error = open(&all_in_one(&model), "transformer", "").unwrap_err();
    assert!(error.to_string().contains("axes_dims") && error.explain().hint.contains("base model"), "{error}");
    let file = table(&all_in_one(&model));
    let located = locate(&file);
    let description = model.describe("transformer");
    let raw = Raw::of_part(&file, &located, "transformer", Some(&description), &ZImage, Tool::Unknown).unwrap();
    let inputs = Inputs {
        component: "transformer",
        family: &ZImage,
        description: Some(description),
        model: None,
        raw,
        other: None,
        declaration: None,
    };
    assert!(assemble(inputs).unwrap().report.is_clean());
}

/// Files that were a GGUF once: the tokens have lost their first dimension, and no byte.
#[test]
fn flat_tokens_are_rows() {
    let model = Model::real();
    let description = model.describe("transformer");
    let mut file = backwards(&entries(&model.catalogue("transformer"), Dtype::F16), &description.rules);
    for (_, _, shape) in file.iter_mut().filter(|(name, _, _)| name.ends_with("_pad_token")) {
        assert_eq!(shape.remove(0), 1);
    }
    let table = table(&file);
    let located = locate(&table);
    let raw = Raw::of_part(&table, &located, "transformer", None, &ZImage, Tool::Unknown).unwrap();
    let model = ZImage.name(None, &ModelFacts::default());
    let inputs = Inputs {
        component: "transformer",
        family: &ZImage,
        description: None,
        model,
        raw,
        other: None,
        declaration: None,
    };
    let assembled = assemble(inputs).unwrap();
    assert!(assembled.report.is_clean(), "{}", assembled.report.summary());
    let token = assembled.table.get("x_pad_token").unwrap();
    assert_eq!(token.info.shape, [1, 3840]);
    assert_eq!(token.info.range, table.get("x_pad_token").unwrap().info.range, "nothing to compute");
}
