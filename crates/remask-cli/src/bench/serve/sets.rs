//! Built-in prompts, by kind.

use clap::ValueEnum;

/// A kind of prompt. The five in the middle are those that tests of recursive models are usually grouped by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Answers of a word or two
    Easy,
    /// Answers of a sentence or two
    Medium,
    /// Explanations and designs
    Hard,
    /// Computers and learning machines
    Technical,
    /// Scenes and scenarios
    Creative,
    /// Nature and how it works
    Science,
    /// Opinions and advice
    Conversation,
    /// How to go about something
    Problems,
    /// Stories for small children, which is what the bundled model writes
    Stories,
}

impl Kind {
    /// Those that a report goes through by category.
    pub const CATEGORIES: [Self; 5] =
        [Self::Technical, Self::Creative, Self::Science, Self::Conversation, Self::Problems];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Easy => "easy",
            Self::Medium => "medium",
            Self::Hard => "hard",
            Self::Technical => "technical",
            Self::Creative => "creative",
            Self::Science => "science",
            Self::Conversation => "conversation",
            Self::Problems => "problems",
            Self::Stories => "stories",
        }
    }

    /// Its prompts.
    pub fn prompts(self) -> &'static [&'static str] {
        match self {
            Self::Easy => &EASY,
            Self::Medium => &MEDIUM,
            Self::Hard => &HARD,
            Self::Technical => &TECHNICAL,
            Self::Creative => &CREATIVE,
            Self::Science => &SCIENCE,
            Self::Conversation => &CONVERSATION,
            Self::Problems => &PROBLEMS,
            Self::Stories => &STORIES,
        }
    }
}

const EASY: [&str; 10] = [
    "The capital of France is",
    "2 + 2 =",
    "The opposite of hot is",
    "Complete the list: Monday, Tuesday,",
    "What colour is the sky on a clear day?",
    "Say hello.",
    "How many legs does a dog have?",
    "The first letter of the alphabet is",
    "Is ice cold? Answer yes or no.",
    "Name a fruit.",
];

const MEDIUM: [&str; 10] = [
    "Write a haiku about artificial intelligence",
    "Describe a sunset over the sea in two sentences.",
    "What is the difference between a lake and a river?",
    "Give three reasons to learn a second language.",
    "Explain what a library is to a child.",
    "Summarise the story of Little Red Riding Hood in three sentences.",
    "How do you make a cup of tea?",
    "Write a short invitation to a birthday party.",
    "Why do leaves change colour in autumn?",
    "List four things to pack for a walk in the mountains, and why.",
];

const HARD: [&str; 10] = [
    "Explain quantum computing in simple terms:",
    "Design a database schema for an online shop and justify every table.",
    "Compare the economic policies of two countries of your choice and discuss their effects.",
    "Prove that the square root of two is irrational, explaining every step.",
    "Explain how a compiler turns source code into machine code.",
    "Discuss the ethical questions that self-driving cars raise, with arguments on both sides.",
    "Describe how vaccines train the immune system, from injection to memory cells.",
    "Write a plan for moving a bank's systems to the cloud without an hour of downtime.",
    "Explain the causes of the First World War and how they acted together.",
    "Derive the quadratic formula and show where it is used.",
];

const TECHNICAL: [&str; 10] = [
    "Artificial intelligence is",
    "The difference between machine learning and deep learning is",
    "Python and Rust differ in that",
    "A computer vision system recognises objects by",
    "Quantum computers could change cryptography because",
    "Neural networks learn by",
    "A hash table stores",
    "The internet works because",
    "Large language models are trained on",
    "The hardest part of writing software is",
];

const CREATIVE: [&str; 10] = [
    "The spaceship landed on a planet where",
    "The dragon opened one eye and said",
    "When she stepped out of the time machine,",
    "The detective looked at the empty safe and knew",
    "In the year 2150, every city",
    "The last tree in the world",
    "Nobody believed the boy who could talk to rivers until",
    "The letter had been lying behind the wall for a hundred years. It said:",
    "The robot painted its first picture:",
    "Below the old lighthouse there was a door that",
];

const SCIENCE: [&str; 10] = [
    "Photosynthesis is the process by which",
    "Climate change affects the oceans by",
    "The human heart pumps blood through",
    "Gravity is",
    "Ecosystems stay in balance because",
    "DNA carries information in the form of",
    "Earthquakes happen when",
    "Stars shine because",
    "Bees are important for",
    "Water boils at a lower temperature on mountains because",
];

const CONVERSATION: [&str; 10] = [
    "What do you think makes a good friend?",
    "The most important lesson of my life was",
    "In ten years people will probably",
    "What advice would you give to somebody who starts a new job?",
    "What is the meaning of happiness?",
    "I had a bad day. Can you cheer me up?",
    "Which book would you take to an island, and why?",
    "Is it better to be early or to be exact?",
    "How do you say no politely?",
    "What would you ask a visitor from the future?",
];

const PROBLEMS: [&str; 10] = [
    "To make a difficult decision, one should first",
    "The best way to learn a new skill is",
    "A good leader",
    "To bring a new idea into a large company,",
    "Success depends on",
    "Two colleagues disagree about a plan. A fair way to settle it is",
    "To finish a project that is behind its schedule,",
    "When there is too much to do,",
    "To save water in a dry town,",
    "A machine stops for no visible reason. The first thing to check is",
];

const STORIES: [&str; 10] = [
    "Tell me about a dog.",
    "Tell me a story about a girl who finds a key.",
    "Tell me about a cat and a bird who are friends.",
    "Tell me a story about a boy who lost his hat.",
    "Tell me about a big red ball.",
    "Tell me a story about a day at the sea.",
    "Tell me about a kind bear.",
    "Tell me a story about a little boat.",
    "Tell me about a tree that wanted to see the world.",
    "Tell me a story about a picnic in the rain.",
];
