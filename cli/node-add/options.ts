/** The options of `edgeseal node add`, as commander gives them. */
export interface AddOptions {
  readonly hostKey?: string;
  readonly expect?: string;
  readonly site?: string;
  readonly name?: string;
  readonly user?: string;
  readonly port?: number;
  readonly identityFile?: string;
  readonly stack?: string;
  readonly dryRun?: true;
  readonly json?: true;
}

/** Exit statuses beside 0 and 1; 2 is wrong usage, and 3 is that of the set-up. */
export const exitStatus = { notCompared: 4, notExpected: 5 } as const;
