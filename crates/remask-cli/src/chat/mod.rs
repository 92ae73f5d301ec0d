//! `remask chat`: a conversation in the terminal, or line by line from standard input.

mod input;

use std::io::{IsTerminal, Write, stdout};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use remask_core::chat::{Conversation, Message};
use remask_core::{Backend, DecodeOptions, Error, FinishReason, Generation, Model, StepReport, generate};
use serde_json::json;

use self::input::{Command, Input, Line};
use crate::bundled::BUNDLED;
use crate::decode_args::DecodeArgs;
use crate::model_args::{DeviceArgs, TokenizerArgs, explain, open_model_with};
use crate::report::tell;
use crate::view::{Colours, View};
use crate::{Failure, Outcome};

#[derive(clap::Args)]
pub struct Args {
    /// Model folder, .safetensors or GGUF file, or name of a model that came with the program
    #[arg(long, default_value = BUNDLED.name)]
    model: String,
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    tokenizer: TokenizerArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    decode: DecodeArgs,
    /// Colours of a canvas that is being unmasked: confidence or depth
    #[arg(long, value_name = "COLOURS", default_value = "confidence")]
    colours: Colours,
}

/// Set by Ctrl-C; the answer under way looks at it after every pass.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

pub fn run(args: &Args) -> Outcome {
    let model = open_model_with(&args.model, &args.tokenizer)?;
    model.text()?;
    if model.chat_template().is_none() {
        let problem = format!("{} has no chat template; continue a text with `remask generate --raw`", args.model);
        return Err(Failure::Message(problem));
    }
    let options = args.decode.options(&model)?;
    options.check_settings()?;
    let backend = args.device.load(&model)?;
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed))
        .map_err(|e| Failure::Message(format!("cannot listen for Ctrl-C: {e}")))?;
    let messages = Vec::new();
    let mut chat = Chat { args, model: &model, options, backend, system: args.system.clone(), messages };
    let mut input = Input::open()?;
    if input.is_terminal() {
        let info = chat.backend.info();
        tell("chat", &format!("{} on {} ({}); /help lists the commands", args.model, info.adapter, info.backend));
    }
    while let Some(line) = input.next()? {
        match line {
            Line::Text(text) => chat.say(text)?,
            Line::Command(command) => {
                if chat.obey(command)?.is_break() {
                    break;
                }
            }
            Line::Unknown(command) => tell("error", &format!("{command} is not known; /help lists the commands")),
        }
    }
    Ok(())
}

/// A conversation under way.
struct Chat<'a> {
    args: &'a Args,
    model: &'a Model,
    options: DecodeOptions,
    backend: Box<dyn Backend>,
    system: Option<String>,
    /// Turns of user and assistant.
    messages: Vec<Message>,
}

impl Chat<'_> {
    /// The conversation as the model gets it.
    fn conversation(&self) -> Conversation {
        let system = self.system.iter().map(|text| Message::new("system", text));
        system.chain(self.messages.iter().cloned()).collect::<Vec<_>>().into()
    }

    /// Answers a message. A failure that leaves the device as it was is said, and the message taken back.
    fn say(&mut self, text: String) -> Outcome {
        self.messages.push(Message::new("user", &text));
        match self.answer() {
            Ok(answer) => self.messages.push(Message::new("assistant", &answer)),
            Err(Failure::Message(problem)) => {
                self.messages.pop();
                tell("error", &problem);
            }
            Err(reported) => return Err(reported),
        }
        Ok(())
    }

    fn answer(&mut self) -> Result<String, Failure> {
        let model = self.model;
        let prompt = model.encode_chat(&self.conversation())?;
        let room = model.architecture.max_positions.saturating_sub(prompt.len());
        if room == 0 {
            let full =
                "the conversation fills the model's positions; /undo takes the last turn back, /clear all of them";
            return Err(Failure::Message(full.to_owned()));
        }
        let options = DecodeOptions { max_tokens: self.options.max_tokens.min(room), ..self.options.clone() };
        options.check(&model.architecture, &prompt)?;
        INTERRUPTED.store(false, Ordering::Relaxed);
        let done = if model.architecture.is_diffusion() {
            self.unmask(&prompt, &options)?
        } else {
            self.write(&prompt, &options)?
        };
        if done.finish == FinishReason::Length && options.max_tokens < self.options.max_tokens {
            tell("note", "the model's positions are used up; /clear begins anew");
        }
        for note in &done.notes {
            tell("note", note);
        }
        Ok(model.text()?.decode(done.completion(), true)?.trim().to_owned())
    }

    /// A canvas that is unmasked before the eyes of whoever sits at a terminal, then the text.
    fn unmask(&mut self, prompt: &[u32], options: &DecodeOptions) -> Result<Generation, Failure> {
        let model = self.model;
        let colours = stdout().is_terminal().then_some(self.args.colours);
        let mut view = View::new(colours, model, options.max_tokens)?;
        let done = self.generate(prompt, options, &mut |report| view.step(model, report));
        view.finish();
        let done = done?;
        let text = model.text()?.decode(done.completion(), true)?;
        writeln!(stdout(), "{}", text.trim())?;
        Ok(done)
    }

    /// Tokens as they come.
    fn write(&mut self, prompt: &[u32], options: &DecodeOptions) -> Result<Generation, Failure> {
        let tokenizer = self.model.text()?;
        let mut stream = tokenizer.stream(true);
        let mut started = false;
        let mut broken = None;
        let mut print = |text: &str| {
            // Templates end where the answer's own first blank may follow.
            let text = if started { text } else { text.trim_start() };
            started |= !text.is_empty();
            write!(stdout(), "{text}").and_then(|()| stdout().flush())
        };
        let done = self.generate(prompt, options, &mut |report| {
            let ended = |token: &u32| report.so_far.ends.contains(token);
            let fresh: Vec<_> = report.committed.iter().map(|s| s.candidate.token).filter(|t| !ended(t)).collect();
            match stream.push(&fresh).map_err(Failure::from).and_then(|text| Ok(print(&text)?)) {
                Ok(()) => ControlFlow::Continue(()),
                Err(problem) => {
                    broken = Some(problem);
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(problem) = broken {
            return Err(problem);
        }
        print(stream.finish()?.trim_end())?;
        writeln!(stdout())?;
        Ok(done)
    }

    /// Runs a generation that Ctrl-C ends.
    fn generate(
        &mut self,
        prompt: &[u32],
        options: &DecodeOptions,
        watch: &mut dyn FnMut(&StepReport) -> ControlFlow<()>,
    ) -> Result<Generation, Failure> {
        let model = self.model;
        let watch = &mut |report: &StepReport| {
            if INTERRUPTED.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { watch(report) }
        };
        let run = generate(&mut *self.backend, &model.architecture, &model.vocabulary, prompt, options, watch);
        Ok(pollster::block_on(run).map_err(|e| explain(e, model))?)
    }

    fn obey(&mut self, command: Command) -> Result<ControlFlow<()>, Failure> {
        match command {
            Command::Help => writeln!(stdout(), "{}", input::HELP)?,
            Command::Quit => return Ok(ControlFlow::Break(())),
            Command::Clear => self.messages.clear(),
            Command::System(text) => {
                self.system = (!text.is_empty()).then_some(text);
                self.messages.clear();
            }
            Command::Undo => match self.take_back() {
                Some(text) => writeln!(stdout(), "took back: {text}")?,
                None => tell("error", "there is nothing to take back"),
            },
            Command::Again => match self.take_back() {
                Some(text) => {
                    // Another seed, or the same words would come again.
                    self.options.sampling.seed = self.options.sampling.seed.wrapping_add(1);
                    self.say(text)?;
                }
                None => tell("error", "there is no answer to give again"),
            },
            Command::Save(path) => match self.save(&path) {
                Ok(()) => tell("chat", &format!("saved to {path}")),
                Err(problem) => tell("error", &problem.to_string()),
            },
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Removes the last message of the user and what followed it.
    fn take_back(&mut self) -> Option<String> {
        let at = self.messages.iter().rposition(|m| m.role == "user")?;
        self.messages.drain(at..).next().map(|m| m.content.text())
    }

    /// Writes the conversation as the JSON of a chat request.
    fn save(&self, path: &str) -> Result<(), Error> {
        let text = json!({ "model": self.args.model, "messages": self.conversation().messages });
        std::fs::write(path, format!("{text:#}\n")).map_err(Error::io("write", path))
    }
}
