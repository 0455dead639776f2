import type { EntryChange, EventChange } from "../../provider/trust/event-diff.ts";
import { eventText } from "../../provider/trust/event-log.ts";
import { visible } from "../visible.ts";
import type { ArtifactCheck } from "./artifacts.ts";
import type { Assessment } from "./assess.ts";
import type { WhichState } from "./read-node.ts";

const stateInWords: Readonly<Record<WhichState, string>> = {
  next: "the state of its next boot",
  afterTrial:
    "the state after the trial of the edit of config.txt and cmdline.txt that waits for it (`pulumi up` makes it)",
  current: "the state that it is in",
};

/** What a person has to see before he approves a state, line by line. */
export function assessmentLines(assessment: Assessment): readonly string[] {
  const { node, which, pcr11, base, changes, approved, left, artifacts, ownProgram, objections } = assessment;
  const compared =
    base === undefined
      ? "nothing was approved for this node before: every event is new"
      : `compared with the state approved ${base.approvedAt} (generation ${base.generation}): ${visible(base.reason)}`;
  return [
    `${node}: ${stateInWords[which]}`,
    `  PCR 11  ${pcr11}`,
    `  ${compared}`,
    "",
    ...(changes.length === 0 ? ["  nothing changed"] : telling(changes).flatMap(changeLines)),
    "",
    ...(ownProgram
      ? []
      : [
          "  note: the measuring program is not the one of this version of edgeseal; `pulumi up` brings it, if it is older",
        ]),
    ...artifactLines(artifacts),
    ...(left > 0
      ? [
          `  note: ${states(left)} approved by generation ${base?.generation ?? 0} of the policy key, now revoked, will not be carried over`,
        ]
      : []),
    ...generationLines(assessment),
    ...(approved ? ["  this state is approved already"] : []),
    ...objections.map((objection) => `  can't be approved: ${visible(objection)}`),
  ];
}

/** Until the site file names the key that signs, no node takes what it signed. */
const generationLines = ({ generation, otherSiteGeneration: other }: Assessment): readonly string[] =>
  other === undefined
    ? []
    : [
        `  note: the site file names generation ${other} of the policy key, and this is generation ${generation}: change trust.generation and trust.policyKey too`,
      ];

const states = (count: number): string => `${count} state${count === 1 ? "" : "s"}`;

/**
 * The changes without that of the names at the top of the boot partition, where it says nothing that the events of the files don't. It always changes with them, and
 * would only train people to pass over it; alone, or with more in it, it is shown.
 */
export function telling(changes: readonly EventChange[]): readonly EventChange[] {
  const told = new Set(
    changes.map(({ type, name }) => (type === "file" ? name : type === "tree" ? `${name}/` : undefined)),
  );
  return changes.filter(
    ({ type, name, entries }) =>
      type !== "tree" ||
      name !== "/" ||
      entries === undefined ||
      entries.length === 0 ||
      entries.some((entry) => !told.has(entry.name)),
  );
}

const column = (change: string): string => change.padEnd(9);

function changeLines(change: EventChange): readonly string[] {
  const { approved, found, entries, type } = change;
  const head = `  ${column(change.change)}${visible(eventText(change))}`;
  if (change.change === "added") return [`${head}  ${short(found)}`, ...(entries ?? []).map(entryLine)];
  if (change.change === "removed") return [`${head}  was ${short(approved)}`];
  if (change.change === "moved") return [`${head}  measured at another place among the others`];
  if (entries === undefined) {
    const inside = type === "file" || type === "program" || type === "bootimage" || type === "node";
    return [
      `${head}  ${short(approved)} -> ${short(found)}`,
      ...(inside
        ? []
        : [
            "             what changed in it is not known: its text, or that of the approved state, is not here",
          ]),
    ];
  }
  if (entries.length === 0) return [`${head}  the same parts in another order or form`];
  return [head, ...entries.map(entryLine)];
}

function entryLine({ change, name, approved, found }: EntryChange): string {
  const digests =
    change === "changed"
      ? `  ${short(approved)} -> ${short(found)}`
      : found === undefined
        ? ""
        : `  ${short(found)}`;
  return `             ${column(change)}${visible(name)}${digests}`;
}

const short = (digest: string | undefined): string =>
  digest === undefined ? "" : `${digest.slice(0, 16)}...`;

function artifactLines(check: ArtifactCheck | undefined): readonly string[] {
  if (check === undefined) {
    return [
      "  note: all of this is what the device says of itself; --artifacts DIR holds its files against a copy of yours",
    ];
  }
  const { differences, remarks, confirmed } = check;
  return [
    `  the trusted copy confirms ${confirmed} event${confirmed === 1 ? "" : "s"}; command line, device tree and boot image are as the device says`,
    ...(differences.length === 0 ? [] : ["  THE DEVICE REPORTS SOMETHING ELSE THAN THE TRUSTED COPY HAS:"]),
    ...telling(differences).flatMap(differenceLines),
    ...remarks.map((remark) => `  ${remark}`),
  ];
}

const inWords: Readonly<Record<EventChange["change"], string>> = {
  added: "only on the device",
  removed: "only in the copy",
  changed: "different",
  moved: "in another order",
};

function differenceLines(change: EventChange): readonly string[] {
  return [
    `    ${inWords[change.change]}: ${visible(eventText(change))}`,
    ...(change.entries ?? []).map((entry) => `      ${inWords[entry.change]}: ${visible(entry.name)}`),
  ];
}

/** The same for programs. Texts of the device are as they are, which JSON escapes. */
export function assessmentJson(assessment: Assessment): Readonly<Record<string, unknown>> {
  const { node, which, pcr11, base, changes, approved, objections, artifacts, ownProgram, left } = assessment;
  return {
    node,
    state: which,
    pcr11,
    alreadyApproved: approved,
    comparedWith: base && {
      pcr11: base.pcr11,
      generation: base.generation,
      approvedAt: base.approvedAt,
      reason: base.reason,
    },
    changes,
    objections,
    ownProgram,
    statesNotCarriedOver: left,
    artifacts,
  };
}
