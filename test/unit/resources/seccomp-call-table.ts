import type { AllowedCall } from "../../../provider/resources/seccomp-profile-calls.ts";
import { callGroups } from "../../../provider/resources/seccomp-profile-variants.ts";
import type { Variant } from "../../../provider/resources/server-variants.ts";

/* The list of a variant's calls as docs/resources/seccomp-profile.md shows it. */

function shown({ call, only, whenWords, answer, unrecorded }: AllowedCall): string {
  const notes = [
    ...(whenWords === undefined ? [] : [whenWords]),
    ...(answer === undefined ? [] : [`refused with ${answer}`]),
    ...(only === undefined ? [] : [only]),
    ...(unrecorded === undefined ? [] : [`not recorded: ${unrecorded}`]),
  ];
  return `\`${call}\`${notes.length === 0 ? "" : ` (${notes.join("; ")})`}`;
}

/** Rows of a markdown table, cells with one space on each side. */
export const callTable = (variant: Variant): readonly string[] => [
  "| for | system calls | why |",
  ...callGroups[variant].map(
    ({ name, calls, why }) => `| ${name} | ${calls.map(shown).join(", ")} | ${why} |`,
  ),
];
