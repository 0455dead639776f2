import type { PolicyKeyOptions } from "./policy-key.ts";

/** The options of `edgeseal approve`, as commander gives them. */
export interface ApproveOptions extends PolicyKeyOptions {
  readonly site?: string;
  readonly stack?: string;
  readonly log?: string;
  readonly texts?: string;
  readonly current?: true;
  readonly artifacts?: string;
  readonly reason?: string;
  readonly approvals?: string;
  readonly forget?: string;
  readonly dryRun?: true;
  readonly yes?: true;
  readonly json?: true;
}

/** Exit statuses beside 0 and 1; 2 is wrong usage, and 3 is that of the set-up. */
export const exitStatus = { notApproved: 4, artifactsDiffer: 5, notApprovable: 6 } as const;
