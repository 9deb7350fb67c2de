//! Prints the cost of decoding to stderr.

use soft_core::decode::Statistics;
use soft_examples::statusln;

/// Prints counts, cost per token and times, for a model of `n_layers` blocks.
pub fn print_statistics(s: &Statistics, n_layers: usize) {
    statusln!(
        "{} tokens in {:.2} s ({:.1} ms per token); {} prompts, {} tokens, in {:.2} s",
        s.tokens(),
        s.total().as_secs_f64(),
        1000.0 * s.time_per_token().as_secs_f64(),
        s.prompts,
        s.prompt_tokens,
        s.prefill.as_secs_f64(),
    );
    if s.tokens() == 0 {
        return;
    }
    let by_depth = s.tokens_by_depth.iter();
    let by_depth: Vec<_> = by_depth
        .map(|(depth, tokens)| format!("{depth}: {tokens}"))
        .collect();
    statusln!(
        "mean depth {:.1} of {n_layers}; tokens by exit {}",
        s.mean_depth(),
        by_depth.join(", ")
    );
    if s.drafted > 0 {
        statusln!(
            "drafted {}, accepted {} of {} verified ({:.0} %)",
            s.drafted,
            s.accepted,
            s.checked,
            100.0 * s.acceptance_rate()
        );
    }
    statusln!(
        "per token: {:.1} blocks ({:.1} loads of block weights), {:.2} heads, {:.2} draft heads",
        s.blocks_per_token(),
        s.weight_loads_per_token(),
        s.heads_per_token(),
        s.draft_heads_per_token(),
    );
    statusln!(
        "time: drafts and early exits {:.2} s, full depth {:.2} s",
        s.draft.as_secs_f64(),
        s.full.as_secs_f64(),
    );
}
