/** What a chapter of the demo says of itself; what it does is in the folder of its name. */
export interface Chapter {
  readonly shows: string;
  /** On two idle processors without KVM, where a boot takes some 35 s. */
  readonly usualMinutes: number;
}

/** Each runs by itself, on a fresh node. */
export const chapters = {
  "main-job": {
    shows: "a site is gated, applied, held against drift, and can't lock you out",
    usualMinutes: 9,
  },
  "trust-chain": {
    shows:
      "measured boot, approvals and sealed volumes: they open by themselves in the approved state, and stay locked whatever else is tried",
    usualMinutes: 20,
  },
  inference: {
    shows:
      "an image and a model, signed and verified on the node, served from a container whose confinement is read from its process; what is loosened is found, what was changed is not served",
    usualMinutes: 30,
  },
} as const satisfies Readonly<Record<string, Chapter>>;

export type ChapterName = keyof typeof chapters;

export const chapterNames = Object.keys(chapters) as readonly ChapterName[];
