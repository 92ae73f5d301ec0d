//! `remask quantize`: writes a model with its matrices in another format.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};

use remask_core::checkpoint::{Encoded, Matrix, SINGLE_FILE, WeightFormat};
use remask_core::families::{LayerNames, TensorNames, parse_config};
use remask_core::model::layer_matrices;
use remask_core::quantize::{BLOCK, scale_name};
use remask_core::{DType, Error, Model};
use safetensors::View;

use crate::bundled::{Named, find};
use crate::model_args::open_model;
use crate::report::tell;
use crate::{Failure, Outcome};

#[derive(clap::Args)]
pub struct Args {
    /// Model folder, .safetensors or GGUF file, or name of a bundled model
    input: String,
    /// Folder to write; made where it does not exist
    output: PathBuf,
    /// Format of the matrices: q8 or q4 (int8 or int4 in blocks of 32 with f16 scales), f16, bf16 or f32
    #[arg(long, default_value = "q8", value_name = "FORMAT")]
    to: WeightFormat,
}

/// Files beside the weights that make up a model folder.
const COMPANIONS: &[&str] =
    &["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "README.md"];

/// One tensor of the output, made when it is written.
enum Output<'a> {
    AsIs { dtype: DType, shape: Vec<usize>, bytes: Cow<'a, [u8]> },
    Values { matrix: Matrix<'a>, format: WeightFormat, shape: Vec<usize> },
    Scales { matrix: Matrix<'a>, format: WeightFormat, shape: Vec<usize> },
}

impl View for Output<'_> {
    fn dtype(&self) -> DType {
        match self {
            Self::AsIs { dtype, .. } => *dtype,
            Self::Scales { .. } => DType::F16,
            Self::Values { format, .. } => match format {
                WeightFormat::F32 => DType::F32,
                WeightFormat::F16 => DType::F16,
                WeightFormat::Bf16 => DType::BF16,
                WeightFormat::Q8 => DType::I8,
                WeightFormat::Q4 => DType::U8,
            },
        }
    }

    fn shape(&self) -> &[usize] {
        match self {
            Self::AsIs { shape, .. } | Self::Values { shape, .. } | Self::Scales { shape, .. } => shape,
        }
    }

    fn data(&self) -> Cow<'_, [u8]> {
        // Ranges were checked before writing began, so encoding cannot fail here.
        fn encode<'a>(m: &Matrix<'a>, format: WeightFormat) -> Option<Encoded<'a>> {
            m.encode(0..m.rows, format).ok()
        }
        match self {
            Self::AsIs { bytes, .. } => Cow::Borrowed(&**bytes),
            Self::Values { matrix, format, .. } => encode(matrix, *format).map(|e| e.values).unwrap_or_default(),
            Self::Scales { matrix, format, .. } => encode(matrix, *format).and_then(|e| e.scales).unwrap_or_default(),
        }
    }

    fn data_len(&self) -> usize {
        self.shape().iter().product::<usize>() * self.dtype().bitsize() / 8
    }
}

pub fn run(args: &Args) -> Outcome {
    let model = open_model(&args.input)?;
    let tensors = outputs(&model, args.to)?;
    if let Some(note) = model.requantization(Some(args.to))? {
        tell("note", &note);
    }
    std::fs::create_dir_all(&args.output).map_err(Error::io("make the folder", &args.output))?;
    let file = args.output.join(SINGLE_FILE);
    if file.exists() {
        return Err(Failure::Message(format!("{} exists already; choose another folder", file.display())));
    }
    let metadata =
        HashMap::from([("format".to_owned(), "pt".to_owned()), ("remask.weights".to_owned(), args.to.to_string())]);
    safetensors::serialize_to_file(tensors, Some(metadata), &file)?;
    if let Named::Bundled(bundled) = find(&args.input) {
        for (name, bytes) in bundled.companions() {
            let to = args.output.join(name);
            std::fs::write(&to, bytes).map_err(Error::io("write", &to))?;
        }
    }
    if Path::new(&args.input).is_file() && !Path::new(&model.origin).is_dir() {
        write_companions(&model, &args.output)?;
    }
    for name in COMPANIONS {
        let from = PathBuf::from(&model.origin).join(name);
        if from.exists() {
            std::fs::copy(&from, args.output.join(name)).map_err(Error::io("copy", &from))?;
        }
    }
    let after = std::fs::metadata(&file).map_err(Error::io("read", &file))?.len();
    writeln!(stdout(), "{}: {} -> {after} bytes", file.display(), model.checkpoint.total_bytes())?;
    Ok(())
}

/// What a model folder needs beside the weights, for a model that came in one file.
fn write_companions(model: &Model, folder: &Path) -> Result<(), Error> {
    let write = |name: &str, text: &str| {
        let to = folder.join(name);
        std::fs::write(&to, text).map_err(Error::io("write", &to))
    };
    write("config.json", &model.config)?;
    if let Some(tokenizer) = &model.tokenizer {
        write("tokenizer.json", &tokenizer.to_json()?)?;
    }
    model.chat_template().map_or(Ok(()), |chat| write("chat_template.jinja", chat.source()))
}

/// The names that the family gives the tensors, by those that the model gives them: they differ for a model
/// that came in a GGUF file.
fn family_names(model: &Model) -> Result<HashMap<String, String>, Error> {
    let (family, a) = parse_config(&model.origin, &model.config)?;
    let all = |n: &TensorNames| -> Vec<String> {
        let of_layer = |l: &LayerNames| {
            [&l.attention_norm, &l.q, &l.k, &l.v, &l.attention_out, &l.mlp_norm, &l.gate, &l.up, &l.down]
                .map(Clone::clone)
        };
        let tables = [Some(&n.embedding), Some(&n.final_norm), n.head.as_ref()].into_iter().flatten().cloned();
        tables.chain(n.layers.iter().flat_map(of_layer)).collect()
    };
    Ok(all(&model.names).into_iter().zip(all(&(family.tensors)(&a))).collect())
}

/// Every tensor of the output. Matrices that do not fit the format, and everything that is no matrix of
/// the architecture, stay as they are.
fn outputs(model: &Model, to: WeightFormat) -> Result<BTreeMap<String, Output<'_>>, Error> {
    let (a, names, checkpoint) = (&model.architecture, &model.names, &model.checkpoint);
    let renamed = family_names(model)?;
    let renamed = |name: &str| renamed.get(name).map_or(name, String::as_str).to_owned();
    let tables = [Some(&names.embedding), names.head.as_ref()];
    let tables = tables.into_iter().flatten().map(|n| (n.as_str(), a.embedding_rows, a.hidden));
    let layers = names.layers.iter().flat_map(|l| layer_matrices(a, l));
    let mut outputs = BTreeMap::new();
    for (name, rows, cols) in tables.chain(layers) {
        let matrix = Matrix::open(checkpoint, name, rows, cols)?;
        let format = if to.fits(cols) { to } else { WeightFormat::F32 };
        matrix.encode(0..rows, format)?;
        if format.scale_bytes(cols) > 0 {
            outputs
                .insert(scale_name(&renamed(name)), Output::Scales { matrix, format, shape: vec![rows, cols / BLOCK] });
        }
        // Two int4 lie in a byte.
        let width = if format == WeightFormat::Q4 { cols / 2 } else { cols };
        outputs.insert(renamed(name), Output::Values { matrix, format, shape: vec![rows, width] });
    }
    for t in checkpoint.tensors() {
        let stale_scale = t.name.strip_suffix(&scale_name("")).is_some_and(|m| outputs.contains_key(m));
        if !outputs.contains_key(&renamed(t.name)) && !stale_scale && t.blocks.is_none() {
            outputs
                .insert(renamed(t.name), Output::AsIs { dtype: t.dtype, shape: t.shape.to_vec(), bytes: t.bytes()? });
        }
    }
    Ok(outputs)
}
