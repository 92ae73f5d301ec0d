//! `remask quantize`: writes a model with its matrices in another format.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{Write, stdout};
use std::ops::Range;
use std::path::{Path, PathBuf};

use remask_core::checkpoint::{Matrix, SINGLE_FILE, WeightFormat};
use remask_core::families::parse_config;
use remask_core::quantize::{BLOCK, scale_name};
use remask_core::tensors::{self, TensorKind, TensorSpec};
use remask_core::tokenizer::TokenizerFiles;
use remask_core::{Checkpoint, DType, Error, Model};
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

/// Files beside the weights and the tokenizer that make up a model folder.
const COMPANIONS: &[&str] =
    &["config.json", "generation_config.json", "tokenizer_config.json", "chat_template.jinja", "README.md"];

/// One tensor of the output, made when it is written.
enum Output<'a> {
    AsIs { dtype: DType, shape: Vec<usize>, bytes: Cow<'a, [u8]> },
    Values { rows: Stacked<'a>, format: WeightFormat, shape: Vec<usize>, transposed: bool },
    Scales { rows: Stacked<'a>, format: WeightFormat, shape: Vec<usize> },
}

/// Rows of one or several matrices, one below the other.
#[derive(Clone)]
struct Stacked<'a>(Vec<(Matrix<'a>, Range<usize>)>);

impl<'a> Stacked<'a> {
    /// `range` of the rows of all `matrices` together.
    fn of(matrices: &[Matrix<'a>], range: &Range<usize>) -> Self {
        let mut first = 0;
        let mut parts = Vec::new();
        for matrix in matrices {
            let from = range.start.max(first) - first;
            let to = range.end.min(first + matrix.rows).saturating_sub(first);
            if from < to {
                parts.push((*matrix, from..to));
            }
            first += matrix.rows;
        }
        Self(parts)
    }

    fn rows(&self) -> usize {
        self.0.iter().map(|(_, rows)| rows.len()).sum()
    }

    fn encode(&self, format: WeightFormat) -> Result<Vec<Cow<'a, [u8]>>, Error> {
        let mut all: Vec<Cow<'a, [u8]>> = Vec::new();
        for (matrix, rows) in &self.0 {
            let planes = matrix.encode(rows.clone(), format)?.planes;
            if all.is_empty() {
                all = planes;
            } else {
                all.iter_mut().zip(&planes).for_each(|(all, plane)| all.to_mut().extend_from_slice(plane));
            }
        }
        Ok(all)
    }

    /// One plane, of rows that were encoded before: they cannot fail to be.
    fn plane(&self, format: WeightFormat, plane: usize) -> Cow<'a, [u8]> {
        self.encode(format).ok().and_then(|planes| planes.into_iter().nth(plane)).unwrap_or_default()
    }
}

/// Elements of `size` bytes of a matrix of `cols` columns, column by column.
fn transposed(values: &[u8], cols: usize, size: usize) -> Vec<u8> {
    let rows = values.len() / (cols * size).max(1);
    let mut out = Vec::with_capacity(values.len());
    for col in 0..cols {
        (0..rows).for_each(|row| out.extend_from_slice(&values[(row * cols + col) * size..][..size]));
    }
    out
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
                // int4: no other format is made.
                _ => DType::U8,
            },
        }
    }

    fn shape(&self) -> &[usize] {
        match self {
            Self::AsIs { shape, .. } | Self::Values { shape, .. } | Self::Scales { shape, .. } => shape,
        }
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match self {
            Self::AsIs { bytes, .. } => Cow::Borrowed(&**bytes),
            // Ranges were checked before writing began, so encoding cannot fail here.
            Self::Values { rows, format, shape, transposed: turned } => {
                let values = rows.plane(*format, 0);
                let size = self.dtype().bitsize() / 8;
                if *turned { Cow::Owned(transposed(&values, shape[0], size)) } else { values }
            }
            Self::Scales { rows, format, .. } => rows.plane(*format, 1),
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
    // A model from one file has no folder to list.
    for entry in Path::new(&model.origin).read_dir().into_iter().flatten() {
        let from = entry.map_err(Error::io("read", &model.origin))?.path();
        let name = from.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if from.is_file() && (COMPANIONS.contains(&name) || TokenizerFiles::takes(name)) {
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

/// Every tensor of the output, under the names and in the order that the family gives them: they differ for a model
/// that came in a GGUF file. Matrices that do not fit the format, and everything that is no tensor of the
/// architecture, stay as they are.
fn outputs(model: &Model, to: WeightFormat) -> Result<BTreeMap<String, Output<'_>>, Error> {
    let checkpoint = &model.checkpoint;
    let (family, _) = parse_config(&model.origin, &model.config)?;
    let specs = (family.tensors)(&model.architecture, &|name| checkpoint.get(name).is_some());
    let mut outputs = BTreeMap::new();
    for specs in specs.chunk_by(|a, b| a.role == b.role) {
        let own: Vec<_> = tensors::of(&model.tensors, specs[0].role).collect();
        match specs[0].kind {
            TensorKind::Matrix => matrices(&mut outputs, specs, &own, checkpoint, to)?,
            TensorKind::Vector => vectors(&mut outputs, specs, &own, checkpoint)?,
        }
    }
    let used: HashSet<_> = model.tensors.iter().map(|spec| spec.name.as_str()).collect();
    for t in checkpoint.tensors() {
        let scale = t.name.strip_suffix(&scale_name("")).is_some_and(|matrix| used.contains(matrix));
        if !used.contains(t.name) && !scale && t.blocks.is_none() {
            let output = Output::AsIs { dtype: t.dtype, shape: t.shape.to_vec(), bytes: t.bytes()? };
            outputs.entry(t.name.to_owned()).or_insert(output);
        }
    }
    Ok(outputs)
}

/// The matrices of a role, `own` of the model, as `specs` has them.
fn matrices<'a>(
    outputs: &mut BTreeMap<String, Output<'a>>,
    specs: &[TensorSpec],
    own: &[&TensorSpec],
    checkpoint: &'a Checkpoint,
    to: WeightFormat,
) -> Result<(), Error> {
    let sources: Vec<_> = own.iter().map(|spec| Matrix::of(checkpoint, spec)).collect::<Result<_, _>>()?;
    let mut first = 0;
    for spec in specs {
        let rows = Stacked::of(&sources, &(first..first + spec.rows));
        first += spec.rows;
        if rows.rows() != spec.rows {
            let (file, found) = (checkpoint.files().next().unwrap_or_default(), rows.rows());
            return Err(Error::tensor(file, &spec.name, format!("has {found} of {} rows", spec.rows)));
        }
        let (height, cols) = (spec.rows, spec.cols);
        let format = if to.fits(cols) { to } else { WeightFormat::F32 };
        rows.encode(format)?;
        let blocks = format.is_quantized();
        if blocks {
            let shape = vec![height, cols / BLOCK];
            outputs.insert(scale_name(&spec.name), Output::Scales { rows: rows.clone(), format, shape });
        }
        // Two int4 lie in a byte. Blocks run along the inputs, however a family stores floats.
        let width = if format == WeightFormat::Q4 { cols / 2 } else { cols };
        let transposed = spec.stored.transposed && !blocks;
        let shape = if transposed { vec![cols, height] } else { vec![height, width] };
        outputs.insert(spec.name.clone(), Output::Values { rows, format, shape, transposed });
    }
    Ok(())
}

/// As [`matrices`], of vectors: as they are where the model has them the same way, else as float32.
fn vectors<'a>(
    outputs: &mut BTreeMap<String, Output<'a>>,
    specs: &[TensorSpec],
    own: &[&TensorSpec],
    checkpoint: &'a Checkpoint,
) -> Result<(), Error> {
    let alike = |(theirs, own): (&TensorSpec, &&TensorSpec)| (theirs.cols, theirs.stored) == (own.cols, own.stored);
    let same = specs.len() == own.len() && specs.iter().zip(own).all(alike);
    let mut values = Vec::new();
    for own in own {
        values.extend(checkpoint.vector(own)?);
    }
    let mut rest = values.as_mut_slice();
    for (index, spec) in specs.iter().enumerate() {
        let shape = vec![spec.cols];
        let (part, behind) = rest.split_at_mut(spec.cols.min(rest.len()));
        rest = behind;
        let view = own
            .get(index)
            .filter(|_| same)
            .and_then(|own| checkpoint.get(&own.name))
            .filter(|view| view.blocks.is_none());
        let output = match view {
            Some(view) => Output::AsIs { dtype: view.dtype, shape, bytes: view.bytes()? },
            None => {
                let less = if spec.stored.plus_one { 1.0 } else { 0.0 };
                let bytes = part.iter().flat_map(|v| (*v - less).to_le_bytes()).collect();
                Output::AsIs { dtype: DType::F32, shape, bytes: Cow::Owned(bytes) }
            }
        };
        outputs.insert(spec.name.clone(), output);
    }
    Ok(())
}
