// The blocks that every screen is set in.
import type { ComponentChildren } from "preact";

type Block = { children?: ComponentChildren };

/** The line above a heading: what kind of thing this is. */
export const Eyebrow = (props: Block) => <p class="eyebrow" {...props} />;
/** A remark in soft ink, as a paragraph and within a line. */
export const Note = (props: Block) => <p class="quiet" {...props} />;
export const Soft = (props: Block) => <span class="quiet" {...props} />;
export const Warning = (props: Block) => <p class="callout warning" {...props} />;
export const Controls = (props: Block) => <div class="controls" {...props} />;
/** What a row of a table is about. */
export const Head = (props: Block) => <th scope="row" {...props} />;
/** What scrolls by itself where it is wide. */
export const Region = ({ label, ...rest }: Block & { label: string }) => <div class="wrap" tabIndex={0} role="region" aria-label={label} {...rest} />;
