import { testChapter } from "./demo-chapter.ts";

testChapter("inference");
