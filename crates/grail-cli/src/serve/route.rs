//! The way of every request for text: read, parse, tokenise, queue, answer.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::Request;
use axum::response::Response;

use super::account::Account;
use super::app::App;
use super::body;
use super::error::Answer;
use super::fields::Fields;
use super::job::{self, Choice, Job, Started};
use super::prompt::{self, Prompt};
use super::streaming::{self, Chunks};

/// A route for text.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Its path, for logs and metrics.
    pub path: &'static str,
    /// What the ids of its answers begin with.
    pub id_prefix: &'static str,
}

/// A request that was read: what to start, and how to word the answer.
pub struct Plan<W> {
    /// Its prompts, one or more.
    pub prompts: Vec<Prompt>,
    /// The field they came in, to be named in refusals.
    pub prompt_field: &'static str,
    /// What to do with them.
    pub job: Job,
    /// How to say what came of it.
    pub words: W,
    /// Whether to say it as it comes.
    pub stream: bool,
}

/// Words an answer that is sent whole.
pub trait Whole: Send {
    /// The choices are in order.
    fn whole(self, account: &Account, choices: Vec<Choice>) -> Response;
}

/// Answers a request with everything at the end.
pub async fn whole<W: Whole>(
    app: Arc<App>,
    route: Route,
    request: Request,
    parse: fn(&App, Fields) -> Answer<Plan<W>>,
) -> Answer {
    let (mut account, plan, started) = begin(app, route, request, parse).await?;
    finish(&mut account, plan, started).await
}

/// Answers a request with a stream, or with everything at the end, as it asks.
pub async fn streamed_or_whole<W: Whole + Chunks>(
    app: Arc<App>,
    route: Route,
    request: Request,
    parse: fn(&App, Fields) -> Answer<Plan<W>>,
) -> Answer {
    let (mut account, plan, started) = begin(app, route, request, parse).await?;
    if plan.stream {
        return Ok(streaming::respond(account, plan.job.n, started.sequences, plan.words));
    }
    finish(&mut account, plan, started).await
}

async fn begin<W>(
    app: Arc<App>,
    route: Route,
    request: Request,
    parse: fn(&App, Fields) -> Answer<Plan<W>>,
) -> Answer<(Account, Plan<W>, Started)> {
    let arrived = Instant::now();
    let (fields, permit) = body::read(&app, request).await?;
    let mut account = Account::open(app.clone(), route.path, route.id_prefix, arrived, permit)?;
    let begun = async {
        let mut plan = parse(&app, fields)?;
        let prompts = std::mem::take(&mut plan.prompts);
        plan.job.prompts = prompt::encode(&app, plan.prompt_field, prompts).await?;
        let started = plan.job.start(&app)?;
        Ok((plan, started))
    };
    match begun.await {
        Ok((plan, started)) => {
            account.begin(&started);
            Ok((account, plan, started))
        }
        Err(error) => {
            account.failed(&error);
            Err(error)
        }
    }
}

async fn finish<W: Whole>(account: &mut Account, plan: Plan<W>, started: Started) -> Answer {
    match job::collect(&plan.job, started.sequences).await {
        Ok(choices) => {
            for (idx, choice) in choices.iter().enumerate() {
                account.choice_done(&choice.ending, idx.is_multiple_of(plan.job.n));
            }
            account.done();
            Ok(plan.words.whole(account, choices))
        }
        Err(error) => {
            account.failed(&error);
            Err(error)
        }
    }
}
