<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE TS>
<TS version="2.1" language="zh_CN">
<context>
    <name>CheckDialog</name>
    <message>
        <source>Check the library</source>
        <translation>检查资料库</translation>
    </message>
    <message>
        <source>Progress of the check</source>
        <translation>检查进度</translation>
    </message>
    <message>
        <source>Mending the library</source>
        <translation>正在修复资料库</translation>
    </message>
    <message>
        <source>Checking the library</source>
        <translation>正在检查资料库</translation>
    </message>
    <message>
        <source>Files, texts, words, vectors and the search index are compared with one another. You can go on searching.</source>
        <translation>正在相互比对文件、文本、词语、向量和搜索索引。您可以继续搜索。</translation>
    </message>
    <message>
        <source>Cancel</source>
        <translation>取消</translation>
    </message>
    <message>
        <source>The search index is just being built and was not compared; exact search serves.</source>
        <translation>搜索索引正在建立，未作比对；目前使用精确搜索。</translation>
    </message>
    <message>
        <source>%1 and %2 were compared.</source>
        <translation>已比对 %1、%2。</translation>
    </message>
    <message>
        <source>The library's catalog is damaged</source>
        <translation>资料库的目录已损坏</translation>
    </message>
    <message>
        <source>What can be read of it is saved by the command “dragoman check --repair”, while this window is closed.</source>
        <translation>请关闭此窗口，运行命令“dragoman check --repair”以保存其中仍可读取的内容。</translation>
    </message>
    <message>
        <source>Everything agrees</source>
        <translation>一切正常</translation>
    </message>
    <message>
        <source>The library is mended</source>
        <translation>资料库已修复</translation>
    </message>
    <message>
        <source>Not everything could be mended yet</source>
        <translation>尚有部分未能修复</translation>
    </message>
    <message>
        <source>Some parts of the library differ</source>
        <translation>资料库的某些部分不一致</translation>
    </message>
    <message>
        <source>Mend it</source>
        <translation>修复</translation>
    </message>
    <message>
        <source>Try again</source>
        <translation>重试</translation>
    </message>
    <message>
        <source>Mended: %1</source>
        <translation>已修复：%1</translation>
    </message>
    <message>
        <source>Harmless: %1</source>
        <translation>无影响：%1</translation>
    </message>
    <message>
        <source>Close</source>
        <translation>关闭</translation>
    </message>
</context>
<context>
    <name>Banner</name>
    <message>
        <source>Dismiss</source>
        <translation>关闭</translation>
    </message>
</context>
<context>
    <name>ChangeLockDialog</name>
    <message>
        <source>Encrypt the library</source>
        <translation>加密资料库</translation>
    </message>
    <message>
        <source>What Dragoman keeps of your files – their texts, names and vectors – is encrypted on the disk. Your files themselves stay as they are. The library is written anew, which takes a moment and as much room again meanwhile.</source>
        <translation>Dragoman 保存的文件内容（文字、文件名和向量）会加密后存放在磁盘上。您的文件本身保持不变。资料库会重新写入，需要一点时间，期间还要占用同样大小的磁盘空间。</translation>
    </message>
    <message>
        <source>Encrypt</source>
        <translation>加密</translation>
    </message>
    <message>
        <source>Change the passphrase</source>
        <translation>更改密码短语</translation>
    </message>
    <message>
        <source>The library is written anew under another key.</source>
        <translation>资料库会用新的密钥重新写入。</translation>
    </message>
    <message>
        <source>Change</source>
        <translation>更改</translation>
    </message>
    <message>
        <source>Decrypt the library</source>
        <translation>取消加密</translation>
    </message>
    <message>
        <source>Everybody who can read the disk can read what is in the library then.</source>
        <translation>之后，任何能读取磁盘的人都能读到资料库的内容。</translation>
    </message>
    <message>
        <source>Decrypt</source>
        <translation>取消加密</translation>
    </message>
    <message>
        <source>&amp;Present passphrase</source>
        <translation>当前密码短语(&amp;P)</translation>
    </message>
    <message>
        <source>&amp;New passphrase</source>
        <translation>新密码短语(&amp;N)</translation>
    </message>
    <message>
        <source>The same &amp;again</source>
        <translation>再输入一次(&amp;A)</translation>
    </message>
    <message>
        <source>Without the passphrase nobody can open the library. There is no way back: if you forget it, the data folder has to be deleted and your folders indexed again.</source>
        <translation>没有密码短语，任何人都无法打开资料库，也无法找回。如果忘记了，只能删除数据文件夹，然后重新为您的文件夹建立索引。</translation>
    </message>
    <message>
        <source>Cancel</source>
        <translation>取消</translation>
    </message>
    <message>
        <source>It needs %1 characters; several words are better still.</source>
        <translation>至少需要 %1 个字符；用几个词更好。</translation>
    </message>
    <message>
        <source>The two are not the same.</source>
        <translation>两次输入不一致。</translation>
    </message>
    <message>
        <source>Close</source>
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
    <name>ComparePane</name>
    <message>
        <source>Model to compare with</source>
        <translation>用来比较的模型</translation>
    </message>
    <message>
        <source>Results of the model that is kept</source>
        <translation>保留的模型的结果</translation>
    </message>
    <message>
        <source>Searching…</source>
        <translation>正在搜索…</translation>
    </message>
    <message>
        <source>This model finds nothing close.</source>
        <translation>这个模型没有找到相近的内容。</translation>
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
        <source>Models</source>
        <translation>模型</translation>
    </message>
    <message>
        <source>Compare with the model that is kept, side by side</source>
        <translation>与保留的模型并排比较</translation>
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
    <name>HubDialog</name>
    <message>
        <source>Add a model from the Hugging Face Hub</source>
        <translation>从 Hugging Face Hub 添加模型</translation>
    </message>
    <message>
        <source>&amp;Name of the model</source>
        <translation>模型名称(&amp;N)</translation>
    </message>
    <message>
        <source>As its page on the Hub is called: organisation/model. It must be an embedding model with safetensors weights; nothing else is downloaded, and none of its code is run.</source>
        <translation>与它在 Hub 上的页面同名：组织/模型。必须是带 safetensors 权重的嵌入模型；不会下载其他内容，也不会运行其中的任何代码。</translation>
    </message>
    <message>
        <source>Cancel</source>
        <translation>取消</translation>
    </message>
    <message>
        <source>Download</source>
        <translation>下载</translation>
    </message>
    <message>
        <source>This is no name of a model. It has two parts: organisation/model.</source>
        <translation>这不是模型名称。名称由两部分组成：组织/模型。</translation>
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
    <message>
        <source>Check the library…</source>
        <translation>检查资料库…</translation>
    </message>
</context>
<context>
    <name>LockSection</name>
    <message>
        <source>Encrypt…</source>
        <translation>加密…</translation>
    </message>
    <message>
        <source>Change the passphrase…</source>
        <translation>更改密码短语…</translation>
    </message>
    <message>
        <source>Decrypt…</source>
        <translation>取消加密…</translation>
    </message>
    <message>
        <source>Lock now</source>
        <translation>立即锁定</translation>
    </message>
    <message>
        <source>The passphrase is asked for at once.</source>
        <translation>会马上要求输入密码短语。</translation>
    </message>
    <message>
        <source>Remember the passphrase in the system&apos;s &amp;keyring</source>
        <translation>在系统密钥环中记住密码短语(&amp;K)</translation>
    </message>
    <message>
        <source>The library is not encrypted.</source>
        <translation>资料库未加密。</translation>
    </message>
    <message>
        <source>The library is encrypted. Its vectors are in memory only, and searches compare all of them instead of asking Chroma, which would write them to the disk as they are.</source>
        <translation>资料库已加密。向量只保存在内存中，搜索时逐一比较，而不使用 Chroma，因为它会把向量原样写到磁盘上。</translation>
    </message>
    <message>
        <source>The library is encrypted and locked.</source>
        <translation>资料库已加密并锁定。</translation>
    </message>
    <message>
        <source>The library is just being written anew.</source>
        <translation>正在重新写入资料库。</translation>
    </message>
    <message>
        <source>This installation cannot encrypt: apsw-sqlite3mc is missing.</source>
        <translation>此安装无法加密：缺少 apsw-sqlite3mc。</translation>
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
        <source>Models (Ctrl+Shift+L)</source>
        <translation>模型 (Ctrl+Shift+L)</translation>
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
        <source>Try again</source>
        <translation>重试</translation>
    </message>
    <message>
        <source>Searching…</source>
        <translation>正在搜索…</translation>
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
        <source>Back to the preview (Ctrl+D)</source>
        <translation>回到预览 (Ctrl+D)</translation>
    </message>
    <message>
        <source>Compare with %1 (Ctrl+D)</source>
        <translation>与 %1 比较 (Ctrl+D)</translation>
    </message>
    <message>
        <source>Searches now use %1</source>
        <translation>搜索现在使用 %1</translation>
    </message>
    <message>
        <source>Its index is complete. That of %1 is kept to compare with.</source>
        <translation>它的索引已经建成。%1 的索引保留下来，可供比较。</translation>
    </message>
    <message>
        <source>Its index is complete.</source>
        <translation>它的索引已经建成。</translation>
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
    <message>
        <source>The meaning has been compared, too. Show that answer (Ctrl+R)</source>
        <translation>含义也已比对完成。显示该结果 (Ctrl+R)</translation>
    </message>
    <message>
        <source>by their words only</source>
        <translation>仅按词语</translation>
    </message>
    <message>
        <source>by their words; by meaning soon…</source>
        <translation>先按词语；稍后按含义…</translation>
    </message>
    <message>
        <source>The language model could not be loaded; only words are compared.</source>
        <translation>语言模型无法加载；只比对了词语。</translation>
    </message>
    <message>
        <source>The reranker is done. Order the list as it says (Ctrl+R)</source>
        <translation>重排模型已完成。按它的结果排序 (Ctrl+R)</translation>
    </message>
    <message>
        <source>The library is locked</source>
        <translation>资料库已锁定</translation>
    </message>
    <message>
        <source>It opens with its passphrase.</source>
        <translation>输入密码短语即可打开。</translation>
    </message>
    <message>
        <source>Unlock…</source>
        <translation>解锁…</translation>
    </message>
    <message>
        <source>The library is being written anew</source>
        <translation>正在重新写入资料库</translation>
    </message>
</context>
<context>
    <name>ModelCard</name>
    <message>
        <source>recommended for this computer</source>
        <translation>推荐用于这台电脑</translation>
    </message>
    <message>
        <source>More</source>
        <translation>更多</translation>
    </message>
    <message>
        <source>being checked</source>
        <translation>正在检查</translation>
    </message>
    <message>
        <source>downloading</source>
        <translation>正在下载</translation>
    </message>
    <message>
        <source>in use</source>
        <translation>使用中</translation>
    </message>
    <message>
        <source>index being built</source>
        <translation>正在建立索引</translation>
    </message>
    <message>
        <source>kept to compare</source>
        <translation>保留供比较</translation>
    </message>
    <message>
        <source>installed</source>
        <translation>已安装</translation>
    </message>
    <message>
        <source>%1 dimensions</source>
        <translation>%1 维</translation>
    </message>
    <message>
        <source>up to %1 tokens</source>
        <translation>最多 %1 个词元</translation>
    </message>
    <message>
        <source>Download %1</source>
        <translation>下载 %1</translation>
    </message>
    <message>
        <source>%1 on disk</source>
        <translation>占磁盘 %1</translation>
    </message>
    <message>
        <source>about %1 of memory</source>
        <translation>约需内存 %1</translation>
    </message>
    <message>
        <source>speed not measured yet</source>
        <translation>尚未测速</translation>
    </message>
    <message>
        <source>index %1</source>
        <translation>索引 %1</translation>
    </message>
    <message>
        <source>Stopped. What is here is kept; the download goes on from there.</source>
        <translation>已停止。已下载的部分会保留，下次接着下载。</translation>
    </message>
    <message>
        <source>Stopped at %1 of %2. The download goes on from there.</source>
        <translation>停在 %1，共 %2。下次接着下载。</translation>
    </message>
    <message>
        <source>Stopping…</source>
        <translation>正在停止…</translation>
    </message>
    <message>
        <source>Looking what there is…</source>
        <translation>正在查看…</translation>
    </message>
    <message>
        <source>%1 of %2</source>
        <translation>%1 / %2</translation>
    </message>
    <message>
        <source>%1/s</source>
        <translation>%1/秒</translation>
    </message>
    <message>
        <source>Cancel building…</source>
        <translation>取消建立…</translation>
    </message>
    <message>
        <source>Use…</source>
        <translation>使用…</translation>
    </message>
    <message>
        <source>Download</source>
        <translation>下载</translation>
    </message>
    <message>
        <source>Cancel</source>
        <translation>取消</translation>
    </message>
    <message>
        <source>Try again</source>
        <translation>重试</translation>
    </message>
    <message>
        <source>Use with shorter vectors…</source>
        <translation>改用更短的向量…</translation>
    </message>
    <message>
        <source>Verify…</source>
        <translation>验证…</translation>
    </message>
    <message>
        <source>Edit the server…</source>
        <translation>编辑服务器…</translation>
    </message>
    <message>
        <source>Drop the kept index…</source>
        <translation>删除保留的索引…</translation>
    </message>
    <message>
        <source>Remove…</source>
        <translation>移除…</translation>
    </message>
    <message>
        <source>Take off the list</source>
        <translation>从列表中去掉</translation>
    </message>
    <message>
        <source>More on %1</source>
        <translation>%1 的更多操作</translation>
    </message>
</context>
<context>
    <name>Models</name>
    <message>
        <source>Stop building the index of %1?</source>
        <translation>停止建立 %1 的索引吗？</translation>
    </message>
    <message>
        <source>What was embedded for it so far is removed. Searches go on with the model in use.</source>
        <translation>为它算好的向量会被删除。搜索继续使用现在的模型。</translation>
    </message>
    <message>
        <source>Stop building</source>
        <translation>停止建立</translation>
    </message>
    <message>
        <source>Go on building</source>
        <translation>继续建立</translation>
    </message>
    <message>
        <source>100 languages</source>
        <translation>100 种语言</translation>
    </message>
    <message>
        <source>over 100 languages</source>
        <translation>100 多种语言</translation>
    </message>
    <message>
        <source>Comes with Dragoman: small and quick on any processor, tuned here across languages.</source>
        <translation>随 Dragoman 附带：小巧，在任何处理器上都很快，并在此做了跨语言调校。</translation>
    </message>
    <message>
        <source>Best for its size: long texts, code, told what to look for. Wants a GPU.</source>
        <translation>同等大小中最好：长文本、源代码、可告知要找什么。需要显卡。</translation>
    </message>
    <message>
        <source>More exact than 0.6B at eight times the work; for a GPU with 12 GB or more.</source>
        <translation>比 0.6B 更准确，计算量是它的八倍；适合 12 GB 以上的显卡。</translation>
    </message>
    <message>
        <source>First on the multilingual MTEB when it came out (June 2025); for a GPU with 24 GB.</source>
        <translation>发布时（2025 年 6 月）多语言 MTEB 第一名；适合 24 GB 的显卡。</translation>
    </message>
    <message>
        <source>Long texts in many languages, without instructions; only its dense vectors are used.</source>
        <translation>多种语言的长文本，不用指令；只使用它的稠密向量。</translation>
    </message>
    <message>
        <source>Strong for a laptop. Google&apos;s licence must be accepted on the Hub, with a token (HF_TOKEN).</source>
        <translation>在笔记本电脑上表现很强。须先在 Hub 上接受 Google 的许可，并设置令牌 (HF_TOKEN)。</translation>
    </message>
    <message>
        <source>The bundled model&apos;s larger sister: somewhat better at four times the work.</source>
        <translation>附带模型的大号版本：稍好一些，计算量是四倍。</translation>
    </message>
    <message>
        <source>The largest of the E5 family; fourteen times the work of the bundled model.</source>
        <translation>E5 系列中最大的；计算量是附带模型的十四倍。</translation>
    </message>
    <message>
        <source>The sentences are Dragoman&apos;s own, of the kinds that the article describes: those of the article are not known. The published numbers belong to those, so expect about the same, not the same.</source>
        <translation>这些句子是 Dragoman 自己写的，与文章所述的种类相同；文章里的原句不得而知。公布的数值属于原句，所以结果应当相近，而不是相同。</translation>
    </message>
    <message>
        <source>Server at %1</source>
        <translation>服务器：%1</translation>
    </message>
</context>
<context>
    <name>ModelsDialog</name>
    <message>
        <source>Models</source>
        <translation>模型</translation>
    </message>
    <message>
        <source>The model turns texts into meaning. Another one reads no file again: its index is built beside the present one, which goes on serving until the new one is complete.</source>
        <translation>模型把文字变成含义。换模型不必重新读取文件：新索引在现有索引旁边建立，建成之前仍由现有索引提供搜索。</translation>
    </message>
    <message>
        <source>Try again</source>
        <translation>重试</translation>
    </message>
    <message>
        <source>On this computer</source>
        <translation>在这台电脑上</translation>
    </message>
    <message>
        <source>To download</source>
        <translation>可以下载</translation>
    </message>
    <message>
        <source>Add a model</source>
        <translation>添加模型</translation>
    </message>
    <message>
        <source>From the Hugging Face Hub…</source>
        <translation>从 Hugging Face Hub…</translation>
    </message>
    <message>
        <source>A folder on this computer…</source>
        <translation>这台电脑上的文件夹…</translation>
    </message>
    <message>
        <source>A .gguf file…</source>
        <translation>.gguf 文件…</translation>
    </message>
    <message>
        <source>An embedding server…</source>
        <translation>嵌入服务器…</translation>
    </message>
    <message>
        <source>Nothing is downloaded before you ask for it.</source>
        <translation>您没有要求之前，不会下载任何东西。</translation>
    </message>
    <message>
        <source>One moment…</source>
        <translation>请稍候…</translation>
    </message>
    <message>
        <source>Drop the index of %1?</source>
        <translation>删除 %1 的索引吗？</translation>
    </message>
    <message>
        <source>Frees %1. Using the model again means building its index again.</source>
        <translation>释放 %1。再次使用这个模型时要重新建立索引。</translation>
    </message>
    <message>
        <source>Drop</source>
        <translation>删除</translation>
    </message>
    <message>
        <source>Keep</source>
        <translation>保留</translation>
    </message>
    <message>
        <source>Remove %1 from this computer?</source>
        <translation>从这台电脑上移除 %1 吗？</translation>
    </message>
    <message>
        <source>Frees %1. It can be downloaded again.</source>
        <translation>释放 %1。以后可以重新下载。</translation>
    </message>
    <message>
        <source>Take %1 off the list?</source>
        <translation>把 %1 从列表中去掉吗？</translation>
    </message>
    <message>
        <source>Its files are not touched.</source>
        <translation>它的文件不会改动。</translation>
    </message>
    <message>
        <source>Dragoman forgets the server&apos;s address and key.</source>
        <translation>Dragoman 会忘记这台服务器的地址和密钥。</translation>
    </message>
    <message>
        <source>Remove</source>
        <translation>移除</translation>
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
    <name>PairsTable</name>
    <message>
        <source>Pairs of texts</source>
        <translation>成对的文本</translation>
    </message>
    <message>
        <source>One text</source>
        <translation>一段文本</translation>
    </message>
    <message>
        <source>The other</source>
        <translation>另一段</translation>
    </message>
    <message>
        <source>Here</source>
        <translation>这里</translation>
    </message>
    <message>
        <source>Published</source>
        <translation>公布值</translation>
    </message>
</context>
<context>
    <name>PassphraseField</name>
    <message>
        <source>Hide the passphrase</source>
        <translation>隐藏密码短语</translation>
    </message>
    <message>
        <source>Show the passphrase</source>
        <translation>显示密码短语</translation>
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
    <message>
        <source>also no. %1</source>
        <translation>另列第 %1</translation>
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
    <name>ResultsModel</name>
    <message>
        <source>in both lists</source>
        <translation>两列都有</translation>
    </message>
</context>
<context>
    <name>ResultsPane</name>
    <message>
        <source>Better order available</source>
        <translation>有更好的排序</translation>
    </message>
    <message>
        <source>Compare</source>
        <translation>比较</translation>
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
        <source>Also with the arrow down on the last row</source>
        <translation>在最后一行按向下键也可以</translation>
    </message>
    <message numerus="yes">
        <source>Show %n weaker match(es)</source>
        <translation>
            <numerusform>显示另外 %n 个较弱的匹配</numerusform>
        </translation>
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
    <name>ServerDialog</name>
    <message>
        <source>Embedding server</source>
        <translation>嵌入服务器</translation>
    </message>
    <message>
        <source>Any server that speaks OpenAI&apos;s protocol for embeddings: sglang, vLLM, TEI, llama.cpp, Ollama, LM Studio. Your texts are sent there.</source>
        <translation>任何使用 OpenAI 嵌入协议的服务器：sglang、vLLM、TEI、llama.cpp、Ollama、LM Studio。您的文字会发送到那里。</translation>
    </message>
    <message>
        <source>such as desk</source>
        <translation>例如 desk</translation>
    </message>
    <message>
        <source>the first that the server lists</source>
        <translation>服务器列出的第一个</translation>
    </message>
    <message>
        <source>none</source>
        <translation>无</translation>
    </message>
    <message>
        <source>Allow plain &amp;http to another computer</source>
        <translation>允许用不加密的 http 连接另一台电脑(&amp;H)</translation>
    </message>
    <message>
        <source>Your texts and the key then travel unencrypted; anybody on the way can read them.</source>
        <translation>这样您的文字和密钥都不加密传输，途中任何人都能看到。</translation>
    </message>
    <message>
        <source>what the model asks for, if anything</source>
        <translation>模型要求的内容（如有）</translation>
    </message>
    <message>
        <source>as the server gives</source>
        <translation>由服务器决定</translation>
    </message>
    <message>
        <source> tokens</source>
        <translation> 个词元</translation>
    </message>
    <message>
        <source>&amp;Name</source>
        <translation>名称(&amp;N)</translation>
    </message>
    <message>
        <source>&amp;Address (URL)</source>
        <translation>地址 (URL)(&amp;A)</translation>
    </message>
    <message>
        <source>&amp;Model</source>
        <translation>模型(&amp;M)</translation>
    </message>
    <message>
        <source>&amp;Key</source>
        <translation>密钥(&amp;K)</translation>
    </message>
    <message>
        <source>Before &amp;questions</source>
        <translation>问题前缀(&amp;Q)</translation>
    </message>
    <message>
        <source>Before &amp;passages</source>
        <translation>段落前缀(&amp;P)</translation>
    </message>
    <message>
        <source>Vector &amp;length</source>
        <translation>向量长度(&amp;L)</translation>
    </message>
    <message>
        <source>L&amp;ongest input</source>
        <translation>最长输入(&amp;O)</translation>
    </message>
    <message>
        <source>Save and test</source>
        <translation>保存并测试</translation>
    </message>
    <message>
        <source>Cancel</source>
        <translation>取消</translation>
    </message>
    <message>
        <source>Save</source>
        <translation>保存</translation>
    </message>
    <message>
        <source>The server needs a name of letters, digits, dots or hyphens.</source>
        <translation>服务器需要一个名称，由字母、数字、点或连字符组成。</translation>
    </message>
    <message>
        <source>The address must begin with http:// or https:// and name the server.</source>
        <translation>地址须以 http:// 或 https:// 开头，并写明服务器。</translation>
    </message>
    <message>
        <source>This address is on another computer and not encrypted. Use https, or allow plain http.</source>
        <translation>这个地址在另一台电脑上，而且没有加密。请用 https，或允许不加密的 http。</translation>
    </message>
    <message>
        <source>There is a server of that name already.</source>
        <translation>已经有同名的服务器。</translation>
    </message>
    <message>
        <source>Close</source>
        <translation>关闭</translation>
    </message>
</context>
<context>
    <name>SettingsPane</name>
    <message>
        <source>Save</source>
        <translation>保存</translation>
    </message>
    <message>
        <source>Files</source>
        <translation>文件</translation>
    </message>
    <message>
        <source>Patterns as in .gitignore, one a line, for all folders.</source>
        <translation>写法与 .gitignore 相同，每行一条，适用于所有文件夹。</translation>
    </message>
    <message>
        <source>Read &amp;hidden files and folders too</source>
        <translation>也读取隐藏的文件和文件夹(&amp;H)</translation>
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
        <source>Patterns of files to leave out</source>
        <translation>要排除的文件模式</translation>
    </message>
    <message>
        <source>Language model</source>
        <translation>语言模型</translation>
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
        <source>32 bits (float32)</source>
        <translation>32 位 (float32)</translation>
    </message>
    <message>
        <source>16 bits (bfloat16)</source>
        <translation>16 位 (bfloat16)</translation>
    </message>
    <message>
        <source>16 bits (float16)</source>
        <translation>16 位 (float16)</translation>
    </message>
    <message>
        <source> tokens</source>
        <translation> 个词元</translation>
    </message>
    <message>
        <source>As long as the model takes</source>
        <translation>模型所能接受的长度</translation>
    </message>
    <message>
        <source>&amp;Runs on</source>
        <translation>运行于(&amp;R)</translation>
    </message>
    <message>
        <source>&amp;Computes in</source>
        <translation>计算精度(&amp;C)</translation>
    </message>
    <message>
        <source>Processor &amp;threads</source>
        <translation>处理器线程(&amp;T)</translation>
    </message>
    <message>
        <source>Longest &amp;input</source>
        <translation>最长输入(&amp;I)</translation>
    </message>
    <message>
        <source>.&amp;gguf files run with</source>
        <translation>.gguf 文件运行于(&amp;G)</translation>
    </message>
    <message>
        <source>What to look for</source>
        <translation>要找什么</translation>
    </message>
    <message>
        <source>Models such as Qwen3-Embedding are told what is sought. Empty: the model&apos;s own words, or those shown. Only questions change, so nothing is embedded again.</source>
        <translation>Qwen3-Embedding 一类的模型会被告知要找什么。留空：用模型自带的话，或所示的话。改变的只是提问，所以不必重新计算任何向量。</translation>
    </message>
    <message>
        <source>Notes</source>
        <translation>笔记</translation>
    </message>
    <message>
        <source>Source code</source>
        <translation>源代码</translation>
    </message>
    <message>
        <source>Questions</source>
        <translation>问题</translation>
    </message>
    <message>
        <source>Order of the results</source>
        <translation>结果的顺序</translation>
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
        <source>A cross-encoder, as Hugging Face&apos;s tools store it. Results appear first and are then ordered again; without a graphics card that takes some seconds.</source>
        <translation>交叉编码器，按 Hugging Face 工具的格式存放。结果先显示，随后重新排序；没有显卡时需要几秒钟。</translation>
    </message>
    <message>
        <source>&amp;Better order</source>
        <translation>更好的排序(&amp;B)</translation>
    </message>
    <message>
        <source>Downloads</source>
        <translation>下载</translation>
    </message>
    <message>
        <source>Never &amp;download models</source>
        <translation>从不下载模型(&amp;D)</translation>
    </message>
    <message>
        <source>Where models are downloaded from. Empty for the Hugging Face Hub.</source>
        <translation>从哪里下载模型。留空为 Hugging Face Hub。</translation>
    </message>
    <message>
        <source>M&amp;irror of the Hub</source>
        <translation>Hub 镜像(&amp;I)</translation>
    </message>
    <message>
        <source>Chroma server</source>
        <translation>Chroma 服务器</translation>
    </message>
    <message>
        <source>Where vectors are searched. Empty: Dragoman runs Chroma itself, on this computer. The library itself always stays here.</source>
        <translation>在哪里搜索向量。留空：Dragoman 在这台电脑上自己运行 Chroma。资料库本身始终留在这里。</translation>
    </message>
    <message>
        <source>none</source>
        <translation>无</translation>
    </message>
    <message>
        <source>that of the system</source>
        <translation>系统的证书</translation>
    </message>
    <message>
        <source>Allow plain http to another computer</source>
        <translation>允许用不加密的 http 连接另一台电脑</translation>
    </message>
    <message>
        <source>Vectors and the token then travel unencrypted; anybody on the way can read them.</source>
        <translation>这样向量和令牌都不加密传输，途中任何人都能看到。</translation>
    </message>
    <message>
        <source>Add&amp;ress (URL)</source>
        <translation>地址 (URL)(&amp;R)</translation>
    </message>
    <message>
        <source>T&amp;oken</source>
        <translation>令牌(&amp;O)</translation>
    </message>
    <message>
        <source>Sent as</source>
        <translation>发送方式</translation>
    </message>
    <message>
        <source>T&amp;enant</source>
        <translation>租户(&amp;E)</translation>
    </message>
    <message>
        <source>&amp;Database</source>
        <translation>数据库(&amp;D)</translation>
    </message>
    <message>
        <source>Certi&amp;ficate</source>
        <translation>证书(&amp;F)</translation>
    </message>
    <message>
        <source>Choose…</source>
        <translation>选择…</translation>
    </message>
    <message>
        <source>“%1” is no address; it begins with http:// or https://.</source>
        <translation>“%1”不是地址；地址以 http:// 或 https:// 开头。</translation>
    </message>
    <message>
        <source>The Chroma server&apos;s address is not encrypted. Use https, or allow plain http.</source>
        <translation>Chroma 服务器的地址没有加密。请用 https，或允许不加密的 http。</translation>
    </message>
    <message>
        <source>Choose the folder that the reranker is in.</source>
        <translation>请选择重排模型所在的文件夹。</translation>
    </message>
    <message>
        <source>Saved.</source>
        <translation>已保存。</translation>
    </message>
    <message>
        <source>Indexing</source>
        <translation>索引</translation>
    </message>
    <message>
        <source>Gentle</source>
        <translation>温和</translation>
    </message>
    <message>
        <source>Balanced</source>
        <translation>均衡</translation>
    </message>
    <message>
        <source>Full</source>
        <translation>全速</translation>
    </message>
    <message>
        <source> minutes</source>
        <translation> 分钟</translation>
    </message>
    <message>
        <source>Never</source>
        <translation>从不</translation>
    </message>
    <message>
        <source>After so long without work the language model gives its memory back. The next search then waits for it for some seconds; what its words find is shown meanwhile.</source>
        <translation>语言模型空闲这么久之后会释放内存。之后的第一次搜索要等它几秒钟；其间先显示按词语找到的结果。</translation>
    </message>
    <message>
        <source>&amp;Speed</source>
        <translation>速度(&amp;S)</translation>
    </message>
    <message>
        <source>&amp;Unload the model after</source>
        <translation>空闲多久后卸载模型(&amp;U)</translation>
    </message>
    <message>
        <source>A quarter of the processor; less while the computer is in use or on battery.</source>
        <translation>占用处理器的四分之一；电脑正在使用或用电池供电时更少。</translation>
    </message>
    <message>
        <source>All of the processor while nobody needs it; half of it, with breaks, while you search or other programs are busy, and on battery.</source>
        <translation>没有别的程序需要时占用整个处理器；您正在搜索、其他程序繁忙或用电池供电时只用一半，并且中间休息。</translation>
    </message>
    <message>
        <source>All of the processor at all times, until the battery is low.</source>
        <translation>始终占用整个处理器，直到电池电量不足。</translation>
    </message>
    <message>
        <source>8 bits (int8)</source>
        <translation>8 位 (int8)</translation>
    </message>
    <message>
        <source>On the processor, &amp;with</source>
        <translation>在处理器上使用(&amp;W)</translation>
    </message>
    <message>
        <source>Encryption</source>
        <translation>加密</translation>
    </message>
    <message>
        <source>With a passphrase nobody who gets hold of the disk can read what Dragoman keeps of your files. It does not protect the files themselves, nor an open library from programs that run under your name.</source>
        <translation>设置密码短语后，得到磁盘的人无法读取 Dragoman 保存的文件内容。它不保护文件本身，也不能防止以您的身份运行的程序读取已打开的资料库。</translation>
    </message>
</context>
<context>
    <name>StatusStrip</name>
    <message>
        <source>Pause indexing</source>
        <translation>暂停索引</translation>
    </message>
    <message>
        <source>More on the index that is being built</source>
        <translation>正在建立的索引：更多操作</translation>
    </message>
    <message>
        <source>Models…</source>
        <translation>模型…</translation>
    </message>
    <message>
        <source>Cancel building…</source>
        <translation>取消建立…</translation>
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
        <source>Could not start</source>
        <translation>无法启动</translation>
    </message>
    <message>
        <source>Models (Ctrl+Shift+L)</source>
        <translation>模型 (Ctrl+Shift+L)</translation>
    </message>
    <message>
        <source>Model: %1</source>
        <translation>模型：%1</translation>
    </message>
    <message>
        <source>Building the index of %1: %2</source>
        <translation>正在建立 %1 的索引：%2</translation>
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
    <message>
        <source>Its memory is free; it is loaded again for the next search.</source>
        <translation>已释放内存；下次搜索时会重新加载。</translation>
    </message>
    <message>
        <source>slower on battery</source>
        <translation>用电池供电，速度放慢</translation>
    </message>
    <message>
        <source>slower while the computer is in use</source>
        <translation>电脑正在使用，速度放慢</translation>
    </message>
    <message>
        <source>waits for room on the disk</source>
        <translation>等待磁盘空间</translation>
    </message>
    <message>
        <source>How much of the computer indexing may take</source>
        <translation>索引可占用多少计算机资源</translation>
    </message>
    <message>
        <source>Gentle</source>
        <translation>温和</translation>
    </message>
    <message>
        <source>Balanced</source>
        <translation>均衡</translation>
    </message>
    <message>
        <source>Full speed</source>
        <translation>全速</translation>
    </message>
    <message>
        <source>Speed of indexing: %1</source>
        <translation>索引速度：%1</translation>
    </message>
    <message>
        <source>Writing the library anew…</source>
        <translation>正在重新写入资料库…</translation>
    </message>
    <message>
        <source>Locked</source>
        <translation>已锁定</translation>
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
    <name>UnlockDialog</name>
    <message>
        <source>Unlock the library</source>
        <translation>解锁资料库</translation>
    </message>
    <message>
        <source>This library is locked</source>
        <translation>此资料库已锁定</translation>
    </message>
    <message>
        <source>Enter its passphrase to search and to index.</source>
        <translation>输入密码短语后才能搜索和建立索引。</translation>
    </message>
    <message>
        <source>&amp;Passphrase</source>
        <translation>密码短语(&amp;P)</translation>
    </message>
    <message>
        <source>Not now</source>
        <translation>暂不</translation>
    </message>
    <message>
        <source>Unlock</source>
        <translation>解锁</translation>
    </message>
</context>
<context>
    <name>UseDialog</name>
    <message>
        <source>Use a model</source>
        <translation>使用模型</translation>
    </message>
    <message>
        <source>Use %1?</source>
        <translation>使用 %1 吗？</translation>
    </message>
    <message>
        <source>Its index is complete and up to date, so the switch takes a moment only.</source>
        <translation>它的索引完整而且是最新的，所以马上就能切换。</translation>
    </message>
    <message>
        <source>Its index is built from the texts that are stored already; no file is read again. Searches go on with %1 meanwhile.</source>
        <translation>它的索引由已经存好的文字建立，不会重新读取文件。在此期间继续用 %1 搜索。</translation>
    </message>
    <message>
        <source>the words alone</source>
        <translation>单纯的词语</translation>
    </message>
    <message>
        <source>Every passage of your library and every question is sent to this server.</source>
        <translation>资料库的每个段落和您的每个问题都会发送到这台服务器。</translation>
    </message>
    <message>
        <source>Full length</source>
        <translation>完整长度</translation>
    </message>
    <message>
        <source>%1 (full length)</source>
        <translation>%1（完整长度）</translation>
    </message>
    <message>
        <source>Shorter vectors need less room and find a little less well.</source>
        <translation>向量越短，占用空间越少，查找效果略差。</translation>
    </message>
    <message>
        <source>Vector &amp;length</source>
        <translation>向量长度(&amp;L)</translation>
    </message>
    <message>
        <source>Texts to embed</source>
        <translation>要计算的文本</translation>
    </message>
    <message>
        <source>Disk space</source>
        <translation>磁盘空间</translation>
    </message>
    <message>
        <source>Time</source>
        <translation>时间</translation>
    </message>
    <message>
        <source>&amp;Keep the present index to compare with</source>
        <translation>保留现有索引以供比较(&amp;K)</translation>
    </message>
    <message>
        <source>Both models then embed new files, and the same question can be asked of both.</source>
        <translation>这样新文件由两个模型都处理，同一个问题可以向两者提问。</translation>
    </message>
    <message>
        <source>Cancel</source>
        <translation>取消</translation>
    </message>
    <message>
        <source>Switch</source>
        <translation>切换</translation>
    </message>
    <message>
        <source>Build the index</source>
        <translation>建立索引</translation>
    </message>
    <message>
        <source>about %1, %2 are free</source>
        <translation>约 %1，可用 %2</translation>
    </message>
    <message>
        <source>not known yet; “Verify” measures the model&apos;s speed here</source>
        <translation>还不知道；“验证”会测出模型在这里的速度</translation>
    </message>
    <message>
        <source>Not enough room on the disk. Shorter vectors or another model need less.</source>
        <translation>磁盘空间不够。更短的向量或别的模型占用较少。</translation>
    </message>
</context>
<context>
    <name>Verification</name>
    <message>
        <source>Embedding the pairs</source>
        <translation>正在计算这些文本</translation>
    </message>
    <message>
        <source>Loading the model and embedding seven pairs of texts…</source>
        <translation>正在加载模型并计算七对文本…</translation>
    </message>
    <message>
        <source>Measured: %1.</source>
        <translation>测得：%1。</translation>
    </message>
    <message>
        <source>The published numbers are of Qwen3-Embedding-0.6B. What counts for another model is that texts which say the same are far closer than those which do not.</source>
        <translation>公布的数值属于 Qwen3-Embedding-0.6B。对别的模型来说，要看意思相同的文本是否明显比意思不同的更接近。</translation>
    </message>
</context>
<context>
    <name>VerifyDialog</name>
    <message>
        <source>Verify a model</source>
        <translation>验证模型</translation>
    </message>
    <message>
        <source>Close</source>
        <translation>关闭</translation>
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
    <message>
        <source>Not compared: the language model is not ready.</source>
        <translation>未比对：语言模型尚未就绪。</translation>
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
    <message numerus="yes">
        <source>%n weaker</source>
        <translation>
            <numerusform>%n 个较弱</numerusform>
        </translation>
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
    <message>
        <source>less than a minute</source>
        <translation>不到一分钟</translation>
    </message>
    <message numerus="yes">
        <source>about %n min</source>
        <translation>
            <numerusform>约 %n 分钟</numerusform>
        </translation>
    </message>
    <message numerus="yes">
        <source>about %n h</source>
        <translation>
            <numerusform>约 %n 小时</numerusform>
        </translation>
    </message>
    <message numerus="yes">
        <source>about %n day(s)</source>
        <translation>
            <numerusform>约 %n 天</numerusform>
        </translation>
    </message>
    <message>
        <source>loading the model…</source>
        <translation>正在加载模型…</translation>
    </message>
    <message>
        <source>waiting</source>
        <translation>等待中</translation>
    </message>
    <message>
        <source>%1 of %2 texts</source>
        <translation>%1 / %2 段文本</translation>
    </message>
    <message>
        <source>paused</source>
        <translation>已暂停</translation>
    </message>
    <message>
        <source>%1 billion parameters</source>
        <translation>%1×10⁹ 参数</translation>
    </message>
    <message>
        <source>%1 million parameters</source>
        <translation>%1 百万参数</translation>
    </message>
    <message>
        <source>%1 tokens/s on %2</source>
        <translation>%2 上每秒 %1 个词元</translation>
    </message>
    <message>
        <source>the processor</source>
        <translation>处理器</translation>
    </message>
    <message>
        <source>the graphics card</source>
        <translation>显卡</translation>
    </message>
    <message>
        <source>%1 tokens/s</source>
        <translation>每秒 %1 个词元</translation>
    </message>
    <message>
        <source>Only words were compared, since the language model cannot be used</source>
        <translation>只比对了词语，因为语言模型无法使用</translation>
    </message>
</context>
<context>
    <name>_LockDialog</name>
    <message>
        <source>&amp;Remember it in the system&apos;s keyring</source>
        <translation>在系统密钥环中记住(&amp;R)</translation>
    </message>
    <message>
        <source>The passphrase is wrong. Mind capital letters and the language of the keyboard.</source>
        <translation>密码短语不正确。请注意大小写和键盘的输入语言。</translation>
    </message>
</context>
</TS>
