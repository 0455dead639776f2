import { uncovered } from "./control.ts";

/** Point 8: an auditable, signed log store, with an encrypted local copy. */
export const logControls = [
  uncovered({ id: "8.signed-logs", point: 8, title: "Logs go to an auditable, signed store" }),
  uncovered({ id: "8.encrypted-local-copy", point: 8, title: "The local copy of the logs is encrypted" }),
] as const;
