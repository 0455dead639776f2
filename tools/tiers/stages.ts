/** What `./edgeseal test` runs, in this order: the fast and general first. */
export const STAGES = ["checks", "unit", "provider", "device", "e2e"] as const;

export type Stage = (typeof STAGES)[number];
export type Tier = Exclude<Stage, "checks">;
