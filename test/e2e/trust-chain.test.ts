import { testChapter } from "./demo-chapter.ts";

testChapter("trust-chain");
