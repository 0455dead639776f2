import { uncovered } from "./control.ts";

/** Point 9: tested incident response, with remote revocation of device keys. */
export const incidentControls = [
  uncovered({
    id: "9.incident-response",
    point: 9,
    title: "Incident response is written down and was exercised",
  }),
  uncovered({ id: "9.key-revocation", point: 9, title: "The keys of a device can be revoked remotely" }),
] as const;
