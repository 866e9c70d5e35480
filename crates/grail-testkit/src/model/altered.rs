//! A model that does everything as another one does, but for what a test changes.

use std::path::Path;
use std::sync::Arc;

use grail_ports::environment::ChatMessage;
use grail_ports::model::{
    Completion, GenerateRequest, Model, ModelError, ModelInfo, ModelProvider, Score, ScoreRequest,
    StopFlag, Trainer,
};
use grail_ports::reference::{PromptForm, ReferenceModel, Trace, TraceRequest};
use grail_protocol::ids::TokenId;

type Change<T> = Box<dyn Fn(&mut Vec<T>) + Send + Sync>;

/// A model whose requests or scores are changed on the way: a cheating engine, or a broken machine.
pub struct AlteredModel {
    inner: Arc<dyn Model>,
    requests: Change<GenerateRequest>,
    scores: Change<Score>,
}

impl AlteredModel {
    /// Wraps a model; nothing is changed yet.
    pub fn new(inner: Arc<dyn Model>) -> Self {
        Self { inner, requests: Box::new(|_| {}), scores: Box::new(|_| {}) }
    }

    /// Changes what is generated for.
    pub fn with_requests(
        self,
        change: impl Fn(&mut Vec<GenerateRequest>) + Send + Sync + 'static,
    ) -> Self {
        Self { requests: Box::new(change), ..self }
    }

    /// Changes the scores of each pass.
    pub fn with_scores(self, change: impl Fn(&mut Vec<Score>) + Send + Sync + 'static) -> Self {
        Self { scores: Box::new(change), ..self }
    }
}

impl ReferenceModel for AlteredModel {
    fn end_token(&self) -> Option<TokenId> {
        self.inner.end_token()
    }

    fn render_as(
        &self,
        messages: &[ChatMessage],
        form: PromptForm,
    ) -> Result<Vec<TokenId>, ModelError> {
        self.inner.render_as(messages, form)
    }

    fn decode_with_special(&self, tokens: &[TokenId]) -> Result<String, ModelError> {
        self.inner.decode_with_special(tokens)
    }

    fn trace(&self, requests: &[TraceRequest], stop: &StopFlag) -> Result<Vec<Trace>, ModelError> {
        self.inner.trace(requests, stop)
    }
}

impl Model for AlteredModel {
    fn info(&self) -> &ModelInfo {
        self.inner.info()
    }

    fn render(&self, messages: &[ChatMessage]) -> Result<Vec<TokenId>, ModelError> {
        self.inner.render(messages)
    }

    fn encode(&self, text: &str) -> Result<Vec<TokenId>, ModelError> {
        self.inner.encode(text)
    }

    fn decode(&self, tokens: &[TokenId]) -> Result<String, ModelError> {
        self.inner.decode(tokens)
    }

    fn generate(
        &self,
        requests: &[GenerateRequest],
        stop: &StopFlag,
        on_group: &mut dyn FnMut(usize, Vec<Completion>),
    ) -> Result<(), ModelError> {
        let mut requests = requests.to_vec();
        (self.requests)(&mut requests);
        self.inner.generate(&requests, stop, on_group)
    }

    fn score(&self, requests: &[ScoreRequest], stop: &StopFlag) -> Result<Vec<Score>, ModelError> {
        let mut scores = self.inner.score(requests, stop)?;
        (self.scores)(&mut scores);
        Ok(scores)
    }
}

/// A provider that alters each model that it loads; trainers are the inner one's.
pub struct AlteredProvider {
    /// Loads the models.
    pub inner: Arc<dyn ModelProvider>,
    /// Alters a model.
    pub alter: fn(AlteredModel) -> AlteredModel,
}

impl ModelProvider for AlteredProvider {
    fn load(&self, dir: &Path) -> Result<Arc<dyn Model>, ModelError> {
        Ok(Arc::new((self.alter)(AlteredModel::new(self.inner.load(dir)?))))
    }

    fn trainer(&self, dir: &Path) -> Result<Box<dyn Trainer>, ModelError> {
        self.inner.trainer(dir)
    }
}
