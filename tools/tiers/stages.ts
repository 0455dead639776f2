/** What `./edgeseal test` can run, in this order: the fast and general first. */
export const STAGES = ["checks", "unit", "provider", "device", "e2e", "trust", "arm64"] as const;

/**
 * What it runs when nothing is named. `trust` is for its own time: attacks on the chain of trust, with an emulated boot or several for each, and a model served in emulation, are more than an hour.
 * So is `arm64`, whose image takes long to build. The closing lines say that they were left out.
 */
export const DEFAULT_STAGES = [
  "checks",
  "unit",
  "provider",
  "device",
  "e2e",
] as const satisfies readonly Stage[];

export type Stage = (typeof STAGES)[number];
export type Tier = Exclude<Stage, "checks">;
