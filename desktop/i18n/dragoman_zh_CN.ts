<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE TS>
<TS version="2.1" language="zh_CN">
<context>
    <name>Banner</name>
    <message>
        <source>Dismiss</source>
        <translation>关闭</translation>
    </message>
</context>
<context>
    <name>CodeView</name>
    <message>
        <source>Source code</source>
        <translation>源代码</translation>
    </message>
</context>
<context>
    <name>CompletionList</name>
    <message>
        <source>Completions</source>
        <translation>补全</translation>
    </message>
</context>
<context>
    <name>Connection</name>
    <message>
        <source>This is too long</source>
        <translation>太长了</translation>
    </message>
    <message>
        <source>The search service takes less at once.</source>
        <translation>搜索服务一次收不了这么多。</translation>
    </message>
    <message>
        <source>The search service could not be started</source>
        <translation>无法启动搜索服务</translation>
    </message>
    <message>
        <source>The connection to the search service broke</source>
        <translation>与搜索服务的连接中断</translation>
    </message>
    <message>
        <source>Trying again.</source>
        <translation>正在重试。</translation>
    </message>
</context>
<context>
    <name>EmptyPage</name>
    <message>
        <source>Nothing close to “%1”</source>
        <translation>没有找到与“%1”相近的内容</translation>
    </message>
    <message>
        <source>Try a whole question, or other words for the same thing.</source>
        <translation>试试完整的问题，或换一种说法。</translation>
    </message>
    <message>
        <source>Filters such as ext: lang: in: and “exact words” leave files out; remove them to see more.</source>
        <translation>ext: lang: in: 等筛选和“精确词语”会排除文件；去掉它们可看到更多。</translation>
    </message>
</context>
<context>
    <name>FilterMenu</name>
    <message>
        <source>PDF files</source>
        <translation>PDF 文件</translation>
    </message>
    <message>
        <source>Source code</source>
        <translation>源代码</translation>
    </message>
    <message>
        <source>Files that end in…</source>
        <translation>文件扩展名为…</translation>
    </message>
    <message>
        <source>In a language…</source>
        <translation>某种语言…</translation>
    </message>
    <message>
        <source>In a folder…</source>
        <translation>某个文件夹中…</translation>
    </message>
    <message>
        <source>Name of the file…</source>
        <translation>文件名包含…</translation>
    </message>
    <message>
        <source>Changed in the last 7 days</source>
        <translation>最近 7 天修改过</translation>
    </message>
    <message>
        <source>Changed this year</source>
        <translation>今年修改过</translation>
    </message>
    <message>
        <source>Changed after…</source>
        <translation>修改时间晚于…</translation>
    </message>
    <message>
        <source>Changed before…</source>
        <translation>修改时间早于…</translation>
    </message>
    <message>
        <source>Larger or smaller than…</source>
        <translation>大于或小于…</translation>
    </message>
    <message>
        <source>These very words</source>
        <translation>原样包含这些词</translation>
    </message>
    <message>
        <source>Without a word</source>
        <translation>不含某个词</translation>
    </message>
    <message>
        <source>Either of two</source>
        <translation>二者之一</translation>
    </message>
    <message>
        <source>How to ask…</source>
        <translation>怎样提问…</translation>
    </message>
</context>
<context>
    <name>FolderCard</name>
    <message>
        <source>Show in the file manager</source>
        <translation>在文件管理器中显示</translation>
    </message>
    <message>
        <source>Remove from the library…</source>
        <translation>从资料库中移除…</translation>
    </message>
    <message>
        <source>live</source>
        <translation>实时</translation>
    </message>
    <message>
        <source>Changes are seen at once.</source>
        <translation>文件有变化会立即察觉。</translation>
    </message>
    <message>
        <source>checked now and then</source>
        <translation>定期检查</translation>
    </message>
    <message>
        <source>The system refused to watch this folder, so it is looked through from time to time.</source>
        <translation>系统不允许监视此文件夹，因此改为定期检查。</translation>
    </message>
    <message>
        <source>offline</source>
        <translation>离线</translation>
    </message>
    <message>
        <source>The folder is not there now. What was read of it can still be found.</source>
        <translation>此文件夹目前不可用。已读取的内容仍可搜到。</translation>
    </message>
    <message>
        <source>starting</source>
        <translation>启动中</translation>
    </message>
    <message>
        <source>The folder is being looked through.</source>
        <translation>正在查看此文件夹。</translation>
    </message>
    <message numerus="yes">
        <source>%n waiting</source>
        <translation>
            <numerusform>%n 个等待中</numerusform>
        </translation>
    </message>
</context>
<context>
    <name>HelpDialog</name>
    <message>
        <source>Help</source>
        <translation>帮助</translation>
    </message>
    <message>
        <source>Type</source>
        <translation>键入</translation>
    </message>
    <message>
        <source>Search; what you type always goes to the search field</source>
        <translation>搜索；键入的内容总会进入搜索框</translation>
    </message>
    <message>
        <source>Go to the search field</source>
        <translation>转到搜索框</translation>
    </message>
    <message>
        <source>Move through the results</source>
        <translation>在结果中移动</translation>
    </message>
    <message>
        <source>Show or hide further passages of a file</source>
        <translation>显示或隐藏文件的其他段落</translation>
    </message>
    <message>
        <source>Search at once; then open the selected file</source>
        <translation>立即搜索；然后打开所选文件</translation>
    </message>
    <message>
        <source>Why this was found</source>
        <translation>为什么找到这个</translation>
    </message>
    <message>
        <source>Find similar files</source>
        <translation>查找相似的文件</translation>
    </message>
    <message>
        <source>Find similar passages</source>
        <translation>查找相似的段落</translation>
    </message>
    <message>
        <source>Take the better order, when there is one</source>
        <translation>采用更好的排序（如果有）</translation>
    </message>
    <message>
        <source>Filters</source>
        <translation>筛选</translation>
    </message>
    <message>
        <source>Back to the search before</source>
        <translation>回到上一次搜索</translation>
    </message>
    <message>
        <source>Show the file in its folder</source>
        <translation>在文件夹中显示文件</translation>
    </message>
    <message>
        <source>Copy the path of the file</source>
        <translation>复制文件路径</translation>
    </message>
    <message>
        <source>Turn the page of the preview</source>
        <translation>预览翻页</translation>
    </message>
    <message>
        <source>Zoom the page of the preview</source>
        <translation>缩放预览页面</translation>
    </message>
    <message>
        <source>Add a folder</source>
        <translation>添加文件夹</translation>
    </message>
    <message>
        <source>Library, problems and settings</source>
        <translation>资料库、问题和设置</translation>
    </message>
    <message>
        <source>Clear the search</source>
        <translation>清除搜索</translation>
    </message>
    <message>
        <source>This list</source>
        <translation>本列表</translation>
    </message>
    <message>
        <source>Keyboard shortcuts</source>
        <translation>键盘快捷键</translation>
    </message>
    <message>
        <source>Ask in your own words, in any language; the words need not occur in the file. What follows is for when that finds too much.</source>
        <translation>用自己的话提问，任何语言都可以；文件里不必出现这些词。找到太多时，可以用下面的写法。</translation>
    </message>
    <message>
        <source>How to ask</source>
        <translation>怎样提问</translation>
    </message>
</context>
<context>
    <name>HomePage</name>
    <message>
        <source>By meaning</source>
        <translation>按含义查找</translation>
    </message>
    <message>
        <source>Ask in your own words. The passage that answers is found, not only the same words.</source>
        <translation>用自己的话提问，找到的是能回答问题的段落，而不只是相同的词。</translation>
    </message>
    <message>
        <source>In any language</source>
        <translation>任何语言</translation>
    </message>
    <message>
        <source>Ask in one language, find what was written in another. Source code too.</source>
        <translation>用一种语言提问，找到用另一种语言写的内容，源代码也可以。</translation>
    </message>
    <message>
        <source>Offline and private</source>
        <translation>离线且私密</translation>
    </message>
    <message>
        <source>Everything stays on this computer. Your files are only read, never changed.</source>
        <translation>一切都留在这台电脑上。文件只会被读取，绝不修改。</translation>
    </message>
    <message>
        <source>Indexing progress</source>
        <translation>索引进度</translation>
    </message>
    <message>
        <source>Choose a folder…</source>
        <translation>选择文件夹…</translation>
    </message>
    <message>
        <source>Try the sample library</source>
        <translation>试用示例资料库</translation>
    </message>
    <message>
        <source>Or drop a folder anywhere on this window.</source>
        <translation>也可以把文件夹拖到这个窗口上。</translation>
    </message>
    <message>
        <source>Narrow it down:  “exact words”   -without   ext:pdf   lang:zh   in:folder   after:2024-01</source>
        <translation>缩小范围：  “精确词语”   -排除   ext:pdf   lang:zh   in:文件夹   after:2024-01</translation>
    </message>
    <message>
        <source>Find your files by meaning</source>
        <translation>按含义查找你的文件</translation>
    </message>
    <message>
        <source>Choose a folder with notes, PDFs, books or code. Dragoman reads it once, then you ask.</source>
        <translation>选择一个存放笔记、PDF、书籍或代码的文件夹。Dragoman 读一遍，然后你就可以提问。</translation>
    </message>
    <message>
        <source>Reading your files</source>
        <translation>正在读取文件</translation>
    </message>
    <message>
        <source>You can search already; answers get better as more is read.</source>
        <translation>现在就可以搜索；读得越多，结果越好。</translation>
    </message>
    <message>
        <source>What are you looking for?</source>
        <translation>想找什么？</translation>
    </message>
    <message>
        <source>%1 in %2, ready to search.</source>
        <translation>%2，共 %1，可以搜索。</translation>
    </message>
    <message numerus="yes">
        <source>%n folder(s)</source>
        <translation>
            <numerusform>%n 个文件夹</numerusform>
        </translation>
    </message>
    <message>
        <source>Try one of these:</source>
        <translation>试试这些问题：</translation>
    </message>
    <message>
        <source>Ask as you would ask a person, for example:</source>
        <translation>像问人一样提问，例如：</translation>
    </message>
</context>
<context>
    <name>LibraryDialog</name>
    <message>
        <source>Library</source>
        <translation>资料库</translation>
    </message>
    <message>
        <source>Folders</source>
        <translation>文件夹</translation>
    </message>
    <message>
        <source>Problems</source>
        <translation>问题</translation>
    </message>
    <message>
        <source>Settings</source>
        <translation>设置</translation>
    </message>
    <message>
        <source>No folders yet. Add one, or drop it on the window.</source>
        <translation>还没有文件夹。添加一个，或把它拖到窗口上。</translation>
    </message>
    <message>
        <source>Add folder…</source>
        <translation>添加文件夹…</translation>
    </message>
    <message>
        <source>Files are only read, never changed.</source>
        <translation>文件只会被读取，绝不修改。</translation>
    </message>
    <message>
        <source>Remove folder</source>
        <translation>移除文件夹</translation>
    </message>
    <message>
        <source>Remove “%1” from the library?</source>
        <translation>从资料库中移除“%1”？</translation>
    </message>
    <message>
        <source>Dragoman forgets what it read there. The files themselves are not touched.</source>
        <translation>Dragoman 会忘记从中读取的内容。文件本身不受影响。</translation>
    </message>
    <message>
        <source>Remove</source>
        <translation>移除</translation>
    </message>
    <message>
        <source>Keep</source>
        <translation>保留</translation>
    </message>
</context>
<context>
    <name>MainWindow</name>
    <message>
        <source>Search</source>
        <translation>搜索</translation>
    </message>
    <message>
        <source>Search by meaning, in any language</source>
        <translation>按含义搜索，任何语言都可以</translation>
    </message>
    <message>
        <source>Clear (Esc)</source>
        <translation>清除 (Esc)</translation>
    </message>
    <message>
        <source>Filters (Alt+F)</source>
        <translation>筛选 (Alt+F)</translation>
    </message>
    <message>
        <source>Library, problems and settings (Ctrl+,)</source>
        <translation>资料库、问题和设置 (Ctrl+,)</translation>
    </message>
    <message>
        <source>Keyboard shortcuts (F1)</source>
        <translation>键盘快捷键 (F1)</translation>
    </message>
    <message>
        <source>Search by words again (Esc)</source>
        <translation>重新按文字搜索 (Esc)</translation>
    </message>
    <message>
        <source>Better order available</source>
        <translation>有更好的排序</translation>
    </message>
    <message>
        <source>The reranker is done. Order the list as it says (Ctrl+R)</source>
        <translation>重排模型已完成。按它的结果排序 (Ctrl+R)</translation>
    </message>
    <message>
        <source>Nothing clearly close was found</source>
        <translation>没有找到明显相近的内容</translation>
    </message>
    <message>
        <source>These are the nearest. A whole question, other words or fewer filters may find more.</source>
        <translation>以下是最接近的。换成完整的问题、别的说法或减少筛选条件，也许能找到更多。</translation>
    </message>
    <message>
        <source>Try again</source>
        <translation>重试</translation>
    </message>
    <message>
        <source>Searching…</source>
        <translation>正在搜索…</translation>
    </message>
    <message numerus="yes">
        <source>%n weaker</source>
        <translation>
            <numerusform>%n 个较弱</numerusform>
        </translation>
    </message>
    <message>
        <source>Also with the arrow down on the last row</source>
        <translation>在最后一行按向下键也可以</translation>
    </message>
    <message numerus="yes">
        <source>Show %n weaker match(es)</source>
        <translation>
            <numerusform>显示另外 %n 个较弱的匹配</numerusform>
        </translation>
    </message>
    <message>
        <source>Similar to: %1</source>
        <translation>相似于：%1</translation>
    </message>
    <message>
        <source>Path copied</source>
        <translation>路径已复制</translation>
    </message>
    <message>
        <source>“%1” could not be opened</source>
        <translation>无法打开“%1”</translation>
    </message>
    <message>
        <source>It may have been moved, its disk may be offline, or no program is set for it.</source>
        <translation>文件可能已被移动，所在磁盘可能离线，或没有可打开它的程序。</translation>
    </message>
    <message>
        <source>Open link</source>
        <translation>打开链接</translation>
    </message>
    <message>
        <source>Open this address in your browser?</source>
        <translation>在浏览器中打开此地址？</translation>
    </message>
    <message>
        <source>Open</source>
        <translation>打开</translation>
    </message>
    <message>
        <source>Cancel</source>
        <translation>取消</translation>
    </message>
    <message>
        <source>Show in folder</source>
        <translation>在文件夹中显示</translation>
    </message>
    <message>
        <source>Copy path</source>
        <translation>复制路径</translation>
    </message>
    <message>
        <source>Find similar files</source>
        <translation>查找相似的文件</translation>
    </message>
    <message>
        <source>Find similar passages</source>
        <translation>查找相似的段落</translation>
    </message>
    <message>
        <source>Why this was found</source>
        <translation>为什么找到这个</translation>
    </message>
    <message>
        <source>Copy passage</source>
        <translation>复制段落</translation>
    </message>
    <message>
        <source>The search service stopped</source>
        <translation>搜索服务已停止</translation>
    </message>
    <message>
        <source>It is being started again. Your library is safe.</source>
        <translation>正在重新启动。资料库安然无恙。</translation>
    </message>
    <message>
        <source>The language model could not be loaded</source>
        <translation>无法加载语言模型</translation>
    </message>
    <message>
        <source>The search service is not running</source>
        <translation>搜索服务未运行</translation>
    </message>
    <message>
        <source>Dragoman tries again by itself.</source>
        <translation>Dragoman 会自动重试。</translation>
    </message>
    <message>
        <source>One moment…</source>
        <translation>请稍候…</translation>
    </message>
    <message>
        <source>Opening your library.</source>
        <translation>正在打开资料库。</translation>
    </message>
    <message>
        <source>The library has no folders yet; add one with Ctrl+O.</source>
        <translation>资料库还没有文件夹；按 Ctrl+O 添加。</translation>
    </message>
    <message>
        <source>Not everything is read yet: %1.</source>
        <translation>文件尚未全部读取：%1。</translation>
    </message>
    <message>
        <source>The language model is still loading; only words are compared so far.</source>
        <translation>语言模型仍在加载；目前只比较词语。</translation>
    </message>
    <message>
        <source>The folder %1 is offline.</source>
        <translation>文件夹 %1 处于离线状态。</translation>
    </message>
</context>
<context>
    <name>PageView</name>
    <message>
        <source>Page</source>
        <translation>页面</translation>
    </message>
</context>
<context>
    <name>PreviewPane</name>
    <message>
        <source>Previous page (Ctrl+PgUp)</source>
        <translation>上一页 (Ctrl+PgUp)</translation>
    </message>
    <message>
        <source>Next page (Ctrl+PgDown)</source>
        <translation>下一页 (Ctrl+PgDown)</translation>
    </message>
    <message>
        <source>Smaller (Ctrl+−)</source>
        <translation>缩小 (Ctrl+−)</translation>
    </message>
    <message>
        <source>Larger (Ctrl++)</source>
        <translation>放大 (Ctrl++)</translation>
    </message>
    <message>
        <source>Fit the width (Ctrl+0)</source>
        <translation>适合宽度 (Ctrl+0)</translation>
    </message>
    <message>
        <source>Open the file (Enter)</source>
        <translation>打开文件 (Enter)</translation>
    </message>
    <message>
        <source>Show in folder (Ctrl+Enter)</source>
        <translation>在文件夹中显示 (Ctrl+Enter)</translation>
    </message>
    <message>
        <source>Copy path (Ctrl+Shift+C)</source>
        <translation>复制路径 (Ctrl+Shift+C)</translation>
    </message>
    <message>
        <source>Nothing selected</source>
        <translation>未选择</translation>
    </message>
    <message>
        <source>Select a result to look into the file.</source>
        <translation>选择一个结果以查看文件。</translation>
    </message>
    <message>
        <source>This page cannot be shown</source>
        <translation>无法显示此页</translation>
    </message>
    <message>
        <source>%1 of %2</source>
        <translation>%1 / %2</translation>
    </message>
</context>
<context>
    <name>ProblemsModel</name>
    <message>
        <source>File</source>
        <translation>文件</translation>
    </message>
    <message>
        <source>Why</source>
        <translation>原因</translation>
    </message>
    <message>
        <source>When</source>
        <translation>时间</translation>
    </message>
</context>
<context>
    <name>ProblemsPane</name>
    <message>
        <source>Show</source>
        <translation>显示</translation>
    </message>
    <message>
        <source>Failed and skipped</source>
        <translation>失败和跳过</translation>
    </message>
    <message>
        <source>Failed</source>
        <translation>失败</translation>
    </message>
    <message>
        <source>Skipped</source>
        <translation>跳过</translation>
    </message>
    <message>
        <source>Retry all failed</source>
        <translation>重试所有失败项</translation>
    </message>
    <message>
        <source>Problems</source>
        <translation>问题</translation>
    </message>
    <message>
        <source>Retry</source>
        <translation>重试</translation>
    </message>
    <message>
        <source>Show in folder</source>
        <translation>在文件夹中显示</translation>
    </message>
    <message>
        <source>Copy</source>
        <translation>复制</translation>
    </message>
    <message>
        <source>The newest %1 of %2</source>
        <translation>共 %2，显示最新 %1 个</translation>
    </message>
    <message>
        <source>Every file could be read.</source>
        <translation>所有文件都可读取。</translation>
    </message>
</context>
<context>
    <name>QueryHelp</name>
    <message>
        <source>These very words side by side</source>
        <translation>这些词原样相连</translation>
    </message>
    <message>
        <source>Not what has this</source>
        <translation>排除含有它的内容</translation>
    </message>
    <message>
        <source>Either of the two</source>
        <translation>二者之一</translation>
    </message>
    <message>
        <source>Quotation marks around a value with spaces</source>
        <translation>值中有空格时加引号</translation>
    </message>
    <message>
        <source>Any of several values</source>
        <translation>几个值中任意一个</translation>
    </message>
</context>
<context>
    <name>ResultsDelegate</name>
    <message>
        <source>Weaker matches</source>
        <translation>较弱的匹配</translation>
    </message>
    <message>
        <source>offline</source>
        <translation>离线</translation>
    </message>
    <message numerus="yes">
        <source>%n more</source>
        <translation>
            <numerusform>另有 %n 段</numerusform>
        </translation>
    </message>
    <message>
        <source>Language: %1</source>
        <translation>语言：%1</translation>
    </message>
    <message>
        <source>Similarity: %1 – click it for the reasons (Ctrl+I)</source>
        <translation>相似度：%1 – 点击查看原因 (Ctrl+I)</translation>
    </message>
</context>
<context>
    <name>ResultsView</name>
    <message>
        <source>Results</source>
        <translation>结果</translation>
    </message>
</context>
<context>
    <name>SettingsPane</name>
    <message>
        <source>One pattern a line, as in a .gitignore file; they hold in every folder.</source>
        <translation>每行一个模式，写法与 .gitignore 相同；对所有文件夹生效。</translation>
    </message>
    <message>
        <source>Index hidden files and folders too</source>
        <translation>同时索引隐藏的文件和文件夹</translation>
    </message>
    <message>
        <source> MB</source>
        <translation> MB</translation>
    </message>
    <message>
        <source>Automatic</source>
        <translation>自动</translation>
    </message>
    <message>
        <source>Processor</source>
        <translation>处理器</translation>
    </message>
    <message>
        <source>NVIDIA graphics card (CUDA)</source>
        <translation>NVIDIA 显卡 (CUDA)</translation>
    </message>
    <message>
        <source>Apple graphics (MPS)</source>
        <translation>Apple 图形处理器 (MPS)</translation>
    </message>
    <message>
        <source> s</source>
        <translation> 秒</translation>
    </message>
    <message>
        <source>&amp;Leave out</source>
        <translation>排除(&amp;L)</translation>
    </message>
    <message>
        <source>Largest &amp;file</source>
        <translation>文件大小上限(&amp;F)</translation>
    </message>
    <message>
        <source>Language model &amp;runs on</source>
        <translation>语言模型运行于(&amp;R)</translation>
    </message>
    <message>
        <source>Processor &amp;threads for it</source>
        <translation>所用处理器线程(&amp;T)</translation>
    </message>
    <message>
        <source>Files read &amp;at once</source>
        <translation>同时读取文件数(&amp;A)</translation>
    </message>
    <message>
        <source>Time &amp;per file</source>
        <translation>每个文件的时限(&amp;P)</translation>
    </message>
    <message>
        <source>&amp;Memory per file</source>
        <translation>每个文件的内存(&amp;M)</translation>
    </message>
    <message>
        <source>&amp;Better order</source>
        <translation>更好的排序(&amp;B)</translation>
    </message>
    <message>
        <source>Patterns of files to leave out</source>
        <translation>要排除的文件模式</translation>
    </message>
    <message>
        <source>Save</source>
        <translation>保存</translation>
    </message>
    <message>
        <source>Order the first hits again with a reranker</source>
        <translation>用重排模型给前几个结果重新排序</translation>
    </message>
    <message>
        <source>Folder of the reranker</source>
        <translation>重排模型所在的文件夹</translation>
    </message>
    <message>
        <source>Choose…</source>
        <translation>选择…</translation>
    </message>
    <message>
        <source>A cross-encoder, as Hugging Face&apos;s tools store it. Results appear first and are then ordered again; without a graphics card that takes some seconds.</source>
        <translation>交叉编码器，按 Hugging Face 工具的格式存放。结果先显示，随后重新排序；没有显卡时需要几秒钟。</translation>
    </message>
    <message>
        <source>Choose the folder that the reranker is in.</source>
        <translation>请选择重排模型所在的文件夹。</translation>
    </message>
    <message>
        <source>Saved.</source>
        <translation>已保存。</translation>
    </message>
</context>
<context>
    <name>StatusStrip</name>
    <message>
        <source>Pause indexing</source>
        <translation>暂停索引</translation>
    </message>
    <message>
        <source>Starting the search service…</source>
        <translation>正在启动搜索服务…</translation>
    </message>
    <message>
        <source>The search service is not running</source>
        <translation>搜索服务未运行</translation>
    </message>
    <message>
        <source>Resume indexing</source>
        <translation>继续索引</translation>
    </message>
    <message>
        <source>Checking the index, exact search serves</source>
        <translation>正在检查索引，暂用精确搜索</translation>
    </message>
    <message>
        <source>Searches are complete; they may take a little longer until the index is ready.</source>
        <translation>搜索结果是完整的；索引就绪前可能稍慢。</translation>
    </message>
    <message>
        <source>Loading the language model…</source>
        <translation>正在加载语言模型…</translation>
    </message>
    <message>
        <source>Language model failed</source>
        <translation>语言模型加载失败</translation>
    </message>
    <message>
        <source>Starting…</source>
        <translation>正在启动…</translation>
    </message>
    <message>
        <source>Stopping…</source>
        <translation>正在停止…</translation>
    </message>
    <message>
        <source>Indexing is paused</source>
        <translation>索引已暂停</translation>
    </message>
    <message numerus="yes">
        <source>Paused – %n file(s) waiting</source>
        <translation>
            <numerusform>已暂停 – %n 个文件等待中</numerusform>
        </translation>
    </message>
    <message>
        <source>Looking through the folders…</source>
        <translation>正在查看文件夹…</translation>
    </message>
    <message>
        <source>Indexing %1 of %2</source>
        <translation>正在索引第 %1 个，共 %2 个</translation>
    </message>
    <message>
        <source>%1 files/s</source>
        <translation>%1 个/秒</translation>
    </message>
    <message>
        <source>No files yet</source>
        <translation>还没有文件</translation>
    </message>
    <message>
        <source>Up to date – %1, %2</source>
        <translation>已是最新 – %1，%2</translation>
    </message>
</context>
<context>
    <name>TextView</name>
    <message>
        <source>Text</source>
        <translation>文本</translation>
    </message>
</context>
<context>
    <name>WhyPopup</name>
    <message>
        <source>Why this was found</source>
        <translation>为什么找到这个</translation>
    </message>
    <message>
        <source>Filters</source>
        <translation>筛选</translation>
    </message>
    <message>
        <source>It fulfils them. There was nothing to compare it with.</source>
        <translation>符合筛选条件。没有可比较的内容。</translation>
    </message>
    <message>
        <source>%1 of 100</source>
        <translation>%1（满分 100）</translation>
    </message>
    <message>
        <source>Texts that have nothing to do with the question are often as close.</source>
        <translation>与问题无关的文字也常常有这么接近。</translation>
    </message>
    <message>
        <source>Similarity</source>
        <translation>相似度</translation>
    </message>
    <message>
        <source>%1 (unrelated texts are at about 0)</source>
        <translation>%1（无关的文字约为 0）</translation>
    </message>
    <message>
        <source>By its meaning</source>
        <translation>含义</translation>
    </message>
    <message>
        <source>%1 (none in common)</source>
        <translation>%1（没有相同的词）</translation>
    </message>
    <message>
        <source>none in common</source>
        <translation>没有相同的词</translation>
    </message>
    <message>
        <source>By its words</source>
        <translation>用词</translation>
    </message>
    <message>
        <source>Reranker</source>
        <translation>重排模型</translation>
    </message>
    <message>
        <source>Language</source>
        <translation>语言</translation>
    </message>
    <message>
        <source>Cosine</source>
        <translation>余弦值</translation>
    </message>
</context>
<context>
    <name>Wording</name>
    <message>
        <source>page %1</source>
        <translation>第 %1 页</translation>
    </message>
    <message>
        <source>chapter %1</source>
        <translation>第 %1 章</translation>
    </message>
    <message>
        <source>line %1</source>
        <translation>第 %1 行</translation>
    </message>
    <message>
        <source>lines %1–%2</source>
        <translation>第 %1–%2 行</translation>
    </message>
    <message numerus="yes">
        <source>%n file(s)</source>
        <translation>
            <numerusform>%n 个文件</numerusform>
        </translation>
    </message>
    <message numerus="yes">
        <source>%n passage(s)</source>
        <translation>
            <numerusform>%n 个段落</numerusform>
        </translation>
    </message>
    <message numerus="yes">
        <source>%n problem(s)</source>
        <translation>
            <numerusform>%n 个问题</numerusform>
        </translation>
    </message>
    <message>
        <source>Copy</source>
        <translation>副本</translation>
    </message>
    <message>
        <source>Version</source>
        <translation>版本</translation>
    </message>
    <message>
        <source>Translation</source>
        <translation>译文</translation>
    </message>
    <message numerus="yes">
        <source>%n translation(s)</source>
        <translation>
            <numerusform>%n 个译文</numerusform>
        </translation>
    </message>
    <message numerus="yes">
        <source>%n version(s)</source>
        <translation>
            <numerusform>%n 个版本</numerusform>
        </translation>
    </message>
    <message numerus="yes">
        <source>%n copy(ies)</source>
        <translation>
            <numerusform>%n 个副本</numerusform>
        </translation>
    </message>
    <message>
        <source>, </source>
        <translation>，</translation>
    </message>
    <message numerus="yes">
        <source>pasted text (%n character(s))</source>
        <translation>
            <numerusform>粘贴的文字（%n 个字）</numerusform>
        </translation>
    </message>
    <message numerus="yes">
        <source>pasted text (%n word(s))</source>
        <translation>
            <numerusform>粘贴的文字（%n 个词）</numerusform>
        </translation>
    </message>
    <message>
        <source>end of the file&apos;s name</source>
        <translation>文件扩展名</translation>
    </message>
    <message>
        <source>kind of file, or programming language</source>
        <translation>文件类型或编程语言</translation>
    </message>
    <message>
        <source>language of the passage</source>
        <translation>段落的语言</translation>
    </message>
    <message>
        <source>folder</source>
        <translation>文件夹</translation>
    </message>
    <message>
        <source>part of the file&apos;s name</source>
        <translation>文件名的一部分</translation>
    </message>
    <message>
        <source>changed then or later</source>
        <translation>在此时或之后修改</translation>
    </message>
    <message>
        <source>changed before then</source>
        <translation>在此之前修改</translation>
    </message>
    <message>
        <source>size of the file</source>
        <translation>文件大小</translation>
    </message>
    <message>
        <source>words to the letter</source>
        <translation>原样包含的词</translation>
    </message>
    <message>
        <source>more than %1</source>
        <translation>大于 %1</translation>
    </message>
    <message>
        <source>less than %1</source>
        <translation>小于 %1</translation>
    </message>
    <message>
        <source>from %1 to %2</source>
        <translation>%1 到 %2</translation>
    </message>
    <message>
        <source>“%1” is no language</source>
        <translation>“%1” 不是语言</translation>
    </message>
    <message>
        <source>“%1” is no kind of file</source>
        <translation>“%1” 不是文件类型</translation>
    </message>
    <message>
        <source>“%1” is no size; try &gt;1mb, &lt;100k or 1mb..5mb</source>
        <translation>“%1” 不是大小；请试 &gt;1mb、&lt;100k 或 1mb..5mb</translation>
    </message>
    <message>
        <source>“%1” is no date; try 2025-06-30, 2025-06, 2025, yesterday or 7d</source>
        <translation>“%1” 不是日期；请试 2025-06-30、2025-06、2025、yesterday 或 7d</translation>
    </message>
    <message>
        <source>The quotation mark is not closed</source>
        <translation>引号没有闭合</translation>
    </message>
    <message>
        <source>A value is missing after “%1”</source>
        <translation>“%1”后面缺少值</translation>
    </message>
    <message>
        <source>Too many alternatives; only the first are searched</source>
        <translation>备选太多；只搜索前几个</translation>
    </message>
    <message>
        <source>A filter beside OR narrows nothing when free words are the other choice</source>
        <translation>OR 的另一边是普通词语时，筛选条件不起作用</translation>
    </message>
    <message>
        <source>%1 ms</source>
        <translation>%1 毫秒</translation>
    </message>
    <message>
        <source>%1 s</source>
        <translation>%1 秒</translation>
    </message>
    <message>
        <source>less than a minute left</source>
        <translation>剩余不到一分钟</translation>
    </message>
    <message numerus="yes">
        <source>about %n min left</source>
        <translation>
            <numerusform>大约还剩 %n 分钟</numerusform>
        </translation>
    </message>
    <message numerus="yes">
        <source>about %n h left</source>
        <translation>
            <numerusform>大约还剩 %n 小时</numerusform>
        </translation>
    </message>
</context>
</TS>
