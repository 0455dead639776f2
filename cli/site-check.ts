import { judgedNodes } from "../components/site-file/judged-site.ts";
import { problemText, SiteFileError, type SiteProblem } from "../components/site-file/problem.ts";
import { readSite } from "../components/site-file/read.ts";
import { checklist } from "../policies/checklist.ts";
import { evaluate, failures, type Finding } from "../policies/evaluate.ts";
import { refusalText } from "../policies/message.ts";
import { summaryText } from "./report-lines.ts";

/** What checking one site file came to. */
export interface SiteCheck {
  readonly file: string;
  readonly passes: boolean;
  /** Faults of the file; while it has any, it is not held against the checklist. */
  readonly problems: readonly SiteProblem[];
  readonly findings: readonly Finding[];
  /** The same for people. */
  readonly lines: readonly string[];
}

/** Checks a site file, and holds it against the checklist. Without Pulumi, and without reaching a device. */
export function checkSite(file: string, now: Date): SiteCheck {
  let spec;
  try {
    spec = readSite(file);
  } catch (error) {
    if (!(error instanceof SiteFileError)) throw error;
    const { problems } = error;
    const lines = problems.map((problem) => problemText(file, problem));
    return { file, passes: false, problems, findings: [], lines };
  }
  const findings = evaluate({ nodes: judgedNodes(spec), waivers: spec.waivers }, checklist, now);
  const passes = failures(findings).length === 0;
  const lines = [
    passes ? `${file}: ${summaryText(findings)}` : refusalText(`${file}: site "${spec.site}"`, findings),
  ];
  return { file, passes, problems: [], findings, lines };
}
