import type { Path } from "../../provider/host/values.ts";

/** One fault of a site file. */
export interface SiteProblem {
  /** Property path, e.g. `nodes[2].firewall.allow[0].to`; empty for the file as a whole. */
  readonly path: string;
  /** Line and column in the file, both from 1; `undefined` when there is no file to point into. */
  readonly line: number | undefined;
  readonly column: number | undefined;
  /** What was expected, what was given, and the mend. Never a secret. */
  readonly message: string;
}

/** `allow[2].to` as parts. */
export const pathParts = (path: string): Path =>
  [...path.matchAll(/\[(\d+)\]|\["((?:[^"\\]|\\.)*)"\]|([^.[\]]+)/g)].map(([, position, quoted, name]) =>
    position === undefined ? (quoted ?? name ?? "") : Number(position),
  );

/** One problem as a compiler would print it, `stacks/demo.yaml:12:7: nodes[0].hostKey: ...`, so that editors and CI make it a link. */
export function problemText(file: string, problem: SiteProblem): string {
  const { line, column, path, message } = problem;
  const place = line === undefined ? file : `${file}:${line}:${column ?? 1}`;
  return path === "" ? `${place}: ${message}` : `${place}: ${path}: ${message}`;
}

/** The site file can't be used. `message` lists every problem, one a line, in the order of the file. */
export class SiteFileError extends Error {
  override readonly name = "SiteFileError";
  readonly file: string;
  readonly problems: readonly SiteProblem[];

  constructor(file: string, problems: readonly SiteProblem[]) {
    const sorted = [...problems].sort(
      (a, b) => (a.line ?? 0) - (b.line ?? 0) || (a.column ?? 0) - (b.column ?? 0),
    );
    super(sorted.map((problem) => problemText(file, problem)).join("\n"));
    this.file = file;
    this.problems = sorted;
  }
}
