//! What decoding cost, in a few lines on stderr.

use soft_core::Statistics;

/// Prints counts, counted cost and times.
pub fn print_statistics(statistics: &Statistics) {
    let s = statistics;
    let seconds = s.total().as_secs_f64();
    let generation = (s.draft + s.full).as_secs_f64();
    let tokens = s.tokens();
    eprintln!(
        "{tokens} tokens in {seconds:.2} s ({:.1} ms per token); prompts: {} tokens in {:.2} s",
        1000.0 * generation / tokens.max(1) as f64,
        s.prompt_tokens,
        s.prefill.as_secs_f64(),
    );
    let by_depth: Vec<_> = s
        .tokens_by_depth
        .iter()
        .map(|(depth, tokens)| format!("{depth}: {tokens}"))
        .collect();
    eprintln!(
        "mean depth {:.1} of {}; tokens by depth {}",
        s.mean_depth(),
        s.depth,
        by_depth.join(", ")
    );
    if s.drafted > 0 {
        eprintln!(
            "drafted {}, accepted {} of {} checked ({:.0} %)",
            s.drafted,
            s.accepted,
            s.checked,
            100.0 * s.acceptance_rate()
        );
    }
    eprintln!(
        "per token: {:.1} blocks ({:.1} readings of block weights), {:.2} heads; time: drafts and early exits {:.2} s, full depth {:.2} s",
        s.blocks_per_token(),
        s.block_passes_per_token(),
        s.heads_per_token(),
        s.draft.as_secs_f64(),
        s.full.as_secs_f64(),
    );
}
