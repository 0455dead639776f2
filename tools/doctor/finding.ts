/** What the doctor says of one piece. */
export interface Finding {
  /** The piece, as a user would name it. */
  readonly piece: string;
  /**
   * `present`: there and good enough. `missing`: needed and not there, so that `./edgeseal doctor` ends with 1. `note`:
   * works without, or is made when it is first needed.
   */
  readonly state: "present" | "missing" | "note";
  /** Version, size or place: what was found. */
  readonly found?: string;
  /** What to do, where there is something to do. */
  readonly mend?: string;
}
